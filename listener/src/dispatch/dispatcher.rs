//! The dispatcher: one task that waits for events, results, commits and commands, and has the part that
//! each concerns handle it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::{Instant, Interval, MissedTickBehavior};

use super::DispatchError;
use super::checkpoint_buffer::CheckpointBuffer;
use super::checkpoint_writer::{CheckpointWriter, CommitReport};
use super::delivery_lanes::DeliveryLanes;
use super::in_flight::Attempts;
use super::intake::Intake;
use super::owned_shard::{OwnedShards, ShardCommand};
use super::queue_queries::QueueQueries;
use super::redriver::Redriver;
use super::stall_detector::StallDetector;
use crate::capture::reader::{Assignment, Epoch, EventBatch};
use crate::delivery::report::DeliveryReporter;
use crate::observers::Observers;
use crate::telemetry::metrics::Metrics;
use crate::telemetry::status::StatusReporter;
use crate::trace::spans::Spans;

/// Time between two queries of the queue about lanes that have jobs.
const QUEUE_QUERY_INTERVAL: Duration = Duration::from_millis(250);

/// Time between two queries of dead letters to redrive.
const REDRIVE_INTERVAL: Duration = Duration::from_secs(2);

/// Time between two checks for stalled shards.
const STALL_CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// The configuration of a dispatcher.
#[derive(Debug)]
pub struct DispatcherConfig {
    /// The observers, and their replacements.
    pub observers: watch::Receiver<Arc<Observers>>,
    /// How many shards the listener has.
    pub shard_count: u16,
    /// Tells the reader what to read.
    pub assignment: watch::Sender<Assignment>,
    /// Writes checkpoints.
    pub writer: CheckpointWriter,
    /// Is told when jobs are added to the queue.
    pub jobs_added: Arc<Notify>,
    /// Is told the lag of each shard, and which are stalled.
    pub reporter: Arc<StatusReporter>,
    /// Is told what becomes of deliveries.
    pub deliveries: DeliveryReporter,
    /// Where spans go.
    pub spans: Spans,
    /// Maximum number of requests of one action at once.
    pub max_concurrency: usize,
    /// Time between two checkpoints.
    pub checkpoint_interval: Duration,
    /// A shard with pending work is stalled after this long without progress.
    pub stalled_after: Duration,
}

/// The dispatcher of a process: drives its parts, each of which owns its state.
#[derive(Debug)]
pub struct Dispatcher {
    observers: watch::Receiver<Arc<Observers>>,
    checkpoint_interval: Duration,
    intake: Intake,
    shards: OwnedShards,
    lanes: DeliveryLanes,
    attempts: Attempts,
    checkpoint: CheckpointBuffer,
    queue: QueueQueries,
    redriver: Redriver,
    stalls: StallDetector,
    reporter: Arc<StatusReporter>,
    metrics: Metrics,
}

impl Dispatcher {
    /// Creates a dispatcher without shards.
    #[must_use]
    pub fn new(config: DispatcherConfig) -> Self {
        let DispatcherConfig {
            mut observers,
            shard_count,
            assignment,
            writer,
            jobs_added,
            reporter,
            deliveries,
            spans,
            max_concurrency,
            checkpoint_interval,
            stalled_after,
        } = config;
        let metrics = writer.metrics.clone();
        let compiled = Arc::clone(&observers.borrow_and_update());
        Self {
            intake: Intake::new(metrics.clone(), spans.clone()),
            shards: OwnedShards::new(shard_count, assignment),
            lanes: DeliveryLanes::new(compiled, shard_count, max_concurrency, checkpoint_interval),
            attempts: Attempts::new(metrics.clone(), spans),
            queue: QueueQueries::new(Arc::clone(&writer.queue), metrics.clone()),
            redriver: Redriver::new(&writer, shard_count),
            stalls: StallDetector::new(stalled_after, Arc::clone(&writer.health)),
            checkpoint: CheckpointBuffer::new(writer, jobs_added, deliveries),
            observers,
            checkpoint_interval,
            reporter,
            metrics,
        }
    }

    /// Delivers for the assigned shards until nobody sends commands any more, or until dispatch cannot
    /// continue.
    pub async fn run(
        mut self,
        mut batches: mpsc::Receiver<EventBatch>,
        mut commands: mpsc::Receiver<ShardCommand>,
    ) -> Result<(), DispatchError> {
        let mut checkpoint_tick = ticks(self.checkpoint_interval);
        let mut query_tick = ticks(QUEUE_QUERY_INTERVAL);
        let mut redrive_tick = ticks(REDRIVE_INTERVAL);
        let mut stall_tick = ticks(STALL_CHECK_INTERVAL);
        loop {
            // All events that are admitted after observers were replaced are matched by the new ones.
            if self.observers.has_changed().unwrap_or(false) {
                self.reload();
            }
            self.intake
                .consume_batch(&self.shards, &mut self.lanes, &mut self.checkpoint);
            self.attempts.start(&mut self.lanes, &mut self.shards);
            let commit_at = self.checkpoint.next_commit_at();
            let deadline = self.shards.next_deadline();
            tokio::select! {
                command = commands.recv() => match command {
                    Some(command) => self.handle_command(command),
                    None => return Ok(()),
                },
                batch = batches.recv(), if self.intake.is_empty() => match batch {
                    Some(batch) => self.accept(batch),
                    None => return Err(DispatchError::Reader),
                },
                Some(result) = self.attempts.next_result() => {
                    let (lanes, shards) = (&mut self.lanes, &mut self.shards);
                    if self.attempts.handle_result(result?, lanes, shards, &mut self.checkpoint) {
                        self.release_drained();
                    }
                }
                Some(report) = self.checkpoint.next_report() => self.committed(&report??),
                Some(found) = self.redriver.next_found() => {
                    self.redriver.redrive(found?, &self.shards, &mut self.lanes, &mut self.checkpoint);
                }
                Some(response) = self.queue.next_response() => {
                    self.queue.apply(response?, &mut self.lanes, &mut self.checkpoint);
                }
                () = replaced(&mut self.observers) => self.reload(),
                () = sleep_until(commit_at), if commit_at.is_some() => self.commit(),
                () = sleep_until(deadline), if deadline.is_some() => self.release_drained(),
                _ = checkpoint_tick.tick() => {
                    self.commit();
                    self.report_lag();
                }
                _ = query_tick.tick() => {
                    self.lanes.spill_for_room(&mut self.checkpoint);
                    self.queue.start(&mut self.lanes, &self.shards);
                }
                _ = redrive_tick.tick() => self.redriver.start_query(&self.shards),
                _ = stall_tick.tick() => self.check_stalls(),
            }
            if self.checkpoint.must_commit() {
                self.commit();
            }
        }
    }

    /// Replaces the observers. Pending deliveries stay pending.
    fn reload(&mut self) {
        let observers = Arc::clone(&self.observers.borrow_and_update());
        tracing::info!(actions = observers.len(), "observers replaced");
        self.lanes
            .replace_observers(observers, &mut self.checkpoint);
    }

    fn accept(&mut self, batch: EventBatch) {
        for (shard, epoch) in &batch.fenced {
            self.fence(*shard, *epoch);
        }
        self.intake
            .accept(batch, &self.shards, &mut self.checkpoint);
    }

    fn handle_command(&mut self, command: ShardCommand) {
        match command {
            ShardCommand::Assign {
                claimed,
                jobs,
                tokens,
            } => {
                let (shard, progress) = (claimed.shard, claimed.progress);
                self.drop_shard(shard);
                self.lanes.add_queued_lanes(&jobs, &mut self.checkpoint);
                let position = progress.position.clone();
                self.checkpoint.add_shard(shard, progress);
                self.shards.assign(shard, claimed.epoch, position, tokens);
            }
            ShardCommand::Release {
                shard,
                drain,
                released,
            } => {
                if self.shards.start_draining(shard, drain, released) {
                    self.lanes.remove_waiting(shard, &mut self.checkpoint);
                    self.release_drained();
                }
            }
        }
    }

    /// Commits drained shards, which releases them; drops those whose deadline has passed.
    fn release_drained(&mut self) {
        for shard in self.shards.enforce_deadlines(Instant::now()) {
            tracing::warn!(
                shard,
                "could not save a shard before its release; what was not saved is delivered again"
            );
            self.checkpoint.health().left_unsaved();
            self.drop_shard(shard);
        }
        if !self.shards.drained().is_empty() {
            self.commit();
        }
    }

    /// Drops a shard, with all that is not committed of it. Cancels its attempts.
    fn drop_shard(&mut self, shard: u16) {
        if !self.shards.remove(shard) {
            return;
        }
        self.lanes.remove_shard(shard, &mut self.checkpoint);
        self.checkpoint.drop_shard(shard);
        self.redriver.remove_shard(shard);
        if self.shards.is_empty() {
            self.intake.clear_backlog();
        }
    }

    /// Drops a shard that another process has claimed, and stops its worker.
    fn fence(&mut self, shard: u16, epoch: Epoch) {
        let Some(fenced) = self.shards.fenced_token(shard, epoch) else {
            return;
        };
        tracing::warn!(
            shard,
            epoch,
            "fenced: another process has claimed the shard, so nothing more of it is saved here"
        );
        self.metrics.shards.checkpoint_fenced.inc();
        self.drop_shard(shard);
        fenced.cancel();
    }

    fn commit(&mut self) {
        self.checkpoint.commit(&self.shards);
    }

    /// Handles the end of a commit.
    fn committed(&mut self, report: &CommitReport) {
        let commit = &report.commit;
        self.checkpoint.committed(report);
        self.lanes.jobs_committed(&commit.jobs);
        self.redriver.committed(&commit.redrive_results);
        for (shard, epoch) in &report.fenced {
            self.fence(*shard, *epoch);
        }
        for shard in &commit.released_shards {
            let epoch = self.shards.epoch(*shard);
            if epoch.is_some() && commit.epochs.get(shard).copied() == epoch {
                self.drop_shard(*shard);
            }
        }
        // A shard that was drained meanwhile must not wait for the next tick.
        self.release_drained();
    }

    /// Reports what is in flight, and the lag of each shard.
    fn report_lag(&self) {
        let ledger = self.checkpoint.ledger();
        let number = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);
        self.metrics
            .delivery_attempts_in_flight
            .set(number(self.lanes.lanes().running()));
        self.metrics
            .deliveries_pending
            .set(number(ledger.pending()));
        let backlog = i64::try_from(self.intake.backlog()).unwrap_or(i64::MAX);
        self.metrics.backlog.set(backlog);
        let unread = self.intake.backlog_since();
        let now = Utc::now();
        let age = |since: DateTime<Utc>| (now - since).as_seconds_f64().max(0.0);
        let lags = ledger.oldest_pending();
        let lags = lags.map(|(shard, oldest)| (shard, oldest.or(unread).map_or(0.0, age)));
        let lags: BTreeMap<u16, f64> = lags.collect();
        let longest = lags.values().copied().fold(0.0, f64::max);
        let lag = Duration::try_from_secs_f64(longest).unwrap_or_default();
        self.metrics.record_lag(lag, now);
        self.reporter.set_lags(&lags);
    }

    /// Reports the shards that are stalled.
    fn check_stalls(&mut self) {
        let with_jobs = self.lanes.queued().iter();
        let with_jobs: BTreeSet<u16> = with_jobs
            .map(|(lane, _)| self.shards.shard_of(lane.1))
            .collect();
        self.checkpoint.set_shards_with_jobs(&with_jobs);
        let (ledger, has_unread) = (self.checkpoint.ledger(), self.intake.has_more());
        let stalled = self
            .stalls
            .check(ledger, &self.lanes, &self.shards, has_unread);
        self.reporter.set_stalled_owned(stalled);
    }
}

/// Ticks that do not pile up while the task is busy.
fn ticks(every: Duration) -> Interval {
    let mut ticks = tokio::time::interval(every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}

/// Waits for other observers; forever when nobody can replace them.
async fn replaced(observers: &mut watch::Receiver<Arc<Observers>>) {
    if observers.changed().await.is_err() {
        std::future::pending::<()>().await;
    }
}

async fn sleep_until(due: Option<Instant>) {
    if let Some(due) = due {
        tokio::time::sleep_until(due).await;
    }
}
