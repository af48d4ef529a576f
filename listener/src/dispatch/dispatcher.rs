//! The task that owns lanes and ledger.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use chrono::Utc;
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, Interval, MissedTickBehavior};

use super::checkpoint_writer::CommitReport;
use super::in_flight::{AttemptResult, InFlightDelivery, attempt, weight};
use super::lanes::Lanes;
use super::ledger::{EventOrigin, EventRef, Ledger};
use super::owned_shard::{Command, Owned};
use super::queue_spill::QueueResponse;
use super::queued_lanes::QueuedLanes;
use super::stall_detector::Patience;
use super::target_table::TargetTable;
use super::{
    ASK_EVERY, CheckpointWriter, DispatchError, LOOK_FOR_STALLS_EVERY, MAX_AHEAD, MAX_HELD_BYTES,
    MAX_IN_FLIGHT, MAX_JOBS, MAX_LETTERS, MAX_PENDING, MAX_TOGETHER, REDRIVE_EVERY,
    SAVE_JOBS_AFTER,
};
use crate::capture::change_log::ChangeRecord;
use crate::capture::position::Position;
use crate::capture::reader::{Assignment, Epoch, EventBatch, shard_of};
use crate::checkpoint::{CheckpointCommit, CheckpointError};
use crate::dead_letters::store::Redrive;
use crate::observers::Target;
use crate::observers::{Compiled, Observers};
use crate::telemetry::status::Reporter;

/// What a dispatcher works with.
#[derive(Debug)]
pub struct Setup {
    /// The observers, and whatever comes in their place.
    pub observers: watch::Receiver<Arc<Observers>>,
    /// How many shards the listener has.
    pub shards: u16,
    /// Tells the reader what to read.
    pub assigned: watch::Sender<Assignment>,
    /// Writes checkpoints.
    pub writer: CheckpointWriter,
    /// Told when jobs have been added to the queue.
    pub jobs_added: Arc<Notify>,
    /// Is told how far behind each shard is.
    pub reporter: Arc<Reporter>,
    /// Most requests of one action under way at once.
    pub max_in_flight: usize,
    /// Time between two saves.
    pub save_every: Duration,
    /// After this long without progress, a shard in which work waits is stalled.
    pub stalled_after: Duration,
}

/// Events of the batch that is being taken in.
#[derive(Debug)]
pub(crate) struct Taking {
    window: u64,
    events: VecDeque<ChangeRecord>,
    reached: BTreeMap<u16, (Epoch, Position)>,
    found_events: bool,
}

/// See the module's words.
#[derive(Debug)]
pub struct Dispatcher {
    pub(crate) setup: Setup,
    pub(crate) targets: TargetTable,
    pub(crate) lanes: Lanes<InFlightDelivery>,
    pub(crate) queued: QueuedLanes,
    pub(crate) ledger: Ledger,
    pub(crate) shards: BTreeMap<u16, Owned>,
    pub(crate) attempts: JoinSet<AttemptResult>,
    pub(crate) saves: JoinSet<Result<CommitReport, CheckpointError>>,
    pub(crate) polls: JoinSet<Result<Vec<Redrive>, sqlx::Error>>,
    pub(crate) answers: JoinSet<QueueResponse>,
    pub(crate) taking: Option<Taking>,
    pub(crate) unsaved: CheckpointCommit,
    /// Among what is unsaved are jobs that are due.
    pub(crate) job_due: bool,
    /// When the last save was begun.
    pub(crate) last_save: Instant,
    /// When all lanes that have jobs may be asked for again.
    pub(crate) next_lanes: Instant,
    /// Dead letters under redrive, with the shards that they are of.
    pub(crate) redriving: HashMap<i64, u16>,
    pub(crate) held: u64,
    pub(crate) backlog: u64,
    pub(crate) last_read: Option<chrono::DateTime<Utc>>,
    pub(crate) patience: Patience,
}

impl Dispatcher {
    /// Works on no shard yet.
    #[must_use]
    pub fn new(mut setup: Setup) -> Self {
        let targets = TargetTable::new(Arc::clone(&setup.observers.borrow_and_update()));
        let most = MAX_IN_FLIGHT.max(setup.max_in_flight);
        let mut dispatcher = Self {
            lanes: Lanes::new(targets.len(), most, setup.max_in_flight),
            queued: QueuedLanes::default(),
            ledger: Ledger::default(),
            shards: BTreeMap::new(),
            attempts: JoinSet::new(),
            saves: JoinSet::new(),
            polls: JoinSet::new(),
            answers: JoinSet::new(),
            taking: None,
            unsaved: CheckpointCommit::default(),
            job_due: false,
            last_save: Instant::now(),
            next_lanes: Instant::now(),
            redriving: HashMap::new(),
            held: 0,
            backlog: 0,
            last_read: None,
            patience: Patience::default(),
            targets,
            setup,
        };
        dispatcher.bound_lanes();
        dispatcher
    }

    /// Works on the shards that it is given, until nobody is there to give or take any; or until it
    /// must not go on.
    pub async fn run(
        mut self,
        mut batches: mpsc::Receiver<EventBatch>,
        mut commands: mpsc::Receiver<Command>,
    ) -> Result<(), DispatchError> {
        let mut save_tick = ticks(self.setup.save_every);
        let mut ask_tick = ticks(ASK_EVERY);
        let mut redrive_tick = ticks(REDRIVE_EVERY);
        let mut stall_tick = ticks(LOOK_FOR_STALLS_EVERY);
        loop {
            // Whoever put others in their place may count on them for all that is taken in after.
            if self.setup.observers.has_changed().unwrap_or(false) {
                self.reload();
            }
            self.take_in();
            self.start();
            let due =
                (self.job_due && self.saves.is_empty()).then(|| self.last_save + SAVE_JOBS_AFTER);
            let end = self.next_end();
            tokio::select! {
                command = commands.recv() => match command {
                    Some(command) => self.command(command),
                    None => return Ok(()),
                },
                batch = batches.recv(), if self.taking.is_none() => match batch {
                    Some(batch) => self.accept(batch),
                    None => return Err(DispatchError::Reader),
                },
                Some(ended) = self.attempts.join_next() => self.ended(ended?),
                Some(saved) = self.saves.join_next() => self.saved(saved??),
                Some(found) = self.polls.join_next() => self.redrive(found?),
                () = replaced(&mut self.setup.observers) => self.reload(),
                Some(answer) = self.answers.join_next() => self.answered(answer?),
                () = sleep_until(due), if due.is_some() => self.save(),
                () = sleep_until(end), if end.is_some() => self.let_go(),
                _ = save_tick.tick() => self.tick(),
                _ = ask_tick.tick() => self.ask_the_queue(),
                _ = redrive_tick.tick() => self.look_for_redrives(),
                _ = stall_tick.tick() => self.look_for_stalls(),
            }
            if self.unsaved.dead_letters.len() >= MAX_LETTERS || self.unsaved.jobs.len() >= MAX_JOBS
            {
                self.save();
            }
        }
    }

    /// Goes on with other observers. What is pending stays pending.
    fn reload(&mut self) {
        let observers = Arc::clone(&self.setup.observers.borrow_and_update());
        tracing::info!(actions = observers.len(), "going on with other observers");
        let told_apart = |known: &Arc<Compiled>| known.tells_keys_apart();
        let before: Vec<bool> = (0..self.targets.len())
            .map(|target| self.targets.target(target).is_some_and(told_apart))
            .collect();
        let (lanes, queued) = (&self.lanes, &self.queued);
        self.targets.replace(observers, |target| {
            lanes.target_len(target) > 0 || queued.has_jobs(target)
        });
        self.lanes.resize(self.targets.len());
        self.bound_lanes();
        self.other_targets(|target| before.get(target).is_some_and(|told| *told));
    }

    /// Actions may have bounds of their own.
    fn bound_lanes(&mut self) {
        for target in 0..self.targets.len() {
            let known = self.targets.target(target);
            let most = known.and_then(|known| known.max_in_flight);
            let most = most.unwrap_or(self.setup.max_in_flight);
            let together = known.and_then(|known| known.action.together());
            let all = together.map(|many| most.saturating_mul(many).min(MAX_TOGETHER.max(most)));
            self.lanes
                .set_limit(target, all.unwrap_or(most), together.is_some());
        }
    }

    fn accept(&mut self, batch: EventBatch) {
        for (shard, epoch) in batch.fenced {
            self.fenced(shard, epoch);
        }
        let mut reached = BTreeMap::new();
        for (shard, epoch, position) in batch.reached {
            // What was read for an earlier claim is of no use for this one.
            if self.epoch_to_begin(shard) != Some(epoch) {
                continue;
            }
            if let Some(bounds) = &batch.bounds {
                self.ledger.open_window(shard, batch.window, bounds);
            }
            reached.insert(shard, (epoch, position));
        }
        self.setup
            .writer
            .metrics
            .events
            .inc_by(batch.events.len() as u64);
        self.backlog = batch.backlog;
        self.taking = Some(Taking {
            window: batch.window,
            found_events: !batch.events.is_empty() || batch.bounds.is_none(),
            events: batch.events.into(),
            reached,
        });
    }

    /// The epoch of a shard's claim, if something of it may be begun.
    pub(crate) fn epoch_to_begin(&self, shard: u16) -> Option<Epoch> {
        let owned = self.shards.get(&shard)?;
        (!owned.is_leaving()).then_some(owned.epoch)
    }

    fn has_room(&self) -> bool {
        self.ledger.pending() < MAX_PENDING
            && self.ledger.tracked_events() < MAX_AHEAD
            && self.held < MAX_HELD_BYTES
            && self.unsaved.dead_letters.len() < MAX_LETTERS
            && self.unsaved.jobs.len() < MAX_JOBS
    }

    /// Takes events in while there is room for what they call for.
    fn take_in(&mut self) {
        while self.taking.is_some() && self.has_room() {
            let Some(taking) = &mut self.taking else {
                return;
            };
            let window = taking.window;
            if let Some(logged) = taking.events.pop_front() {
                let shard = shard_of(logged.event.hash, self.setup.shards);
                let read_under = taking.reached.get(&shard).map(|(epoch, _)| *epoch);
                if let Some(epoch) =
                    read_under.filter(|epoch| self.epoch_to_begin(shard) == Some(*epoch))
                {
                    self.enter(logged, (shard, epoch), window);
                }
            } else if let Some(taken) = self.taking.take() {
                for (shard, (epoch, position)) in taken.reached {
                    if self.epoch_to_begin(shard) == Some(epoch) {
                        self.ledger.advance(shard, position, taken.found_events);
                    }
                }
            }
        }
    }

    fn enter(&mut self, logged: ChangeRecord, of: (u16, Epoch), window: u64) {
        let (called, matched) = self.targets.match_event(&logged);
        for observer in matched {
            self.setup
                .writer
                .metrics
                .matches
                .with_label_values(&[&**observer])
                .inc();
        }
        let place: EventRef = (of.0, window, logged.event.log_id);
        let targets: Vec<Target> = called
            .run
            .iter()
            .copied()
            .chain(called.failed.iter().map(|(target, _)| *target))
            .collect();
        let names: Vec<_> = targets
            .iter()
            .filter_map(|target| self.targets.target(*target))
            .map(|known| known.name.clone())
            .collect();
        self.last_read = Some(logged.event.occurred_at);
        let mark = EventOrigin {
            hash: logged.event.hash,
            xid: logged.xid,
            occurred_at: logged.event.occurred_at,
        };
        let left = self.ledger.register(place, mark, &names);
        if left.is_empty() {
            return;
        }
        let event = Arc::new(logged.event);
        for n in left {
            self.held += weight(&event);
            let mut work = InFlightDelivery::new(Arc::clone(&event), place, of, Instant::now());
            if let Some((target, failure)) = n
                .checked_sub(called.run.len())
                .and_then(|n| called.failed.get(n))
            {
                work.note(failure, None);
                self.give_up(*target, work);
                continue;
            }
            let Some(compiled) = self.targets.target(targets[n]) else {
                continue;
            };
            let lane = (targets[n], compiled.lane(&event, self.setup.shards));
            // What is here of its key goes first, here.
            if self.is_queued(lane.0) && self.lanes.len(lane) == 0 {
                self.spill(lane, work, Instant::now());
            } else {
                self.lanes.push(lane, work);
            }
        }
    }

    /// Runs what may run.
    fn start(&mut self) {
        while let Some((lane, work)) = self.lanes.start_next() {
            work.attempts += 1;
            let shard = self.shards.get_mut(&work.of.0);
            if let (Some(compiled), Some(owned)) = (self.targets.target(lane.0), shard) {
                owned.running += 1;
                let cut = owned.right.cut.clone();
                self.attempts.spawn(attempt(lane, compiled, work, cut));
            }
        }
    }
}

/// Ticks that do not pile up while the task is busy.
fn ticks(every: Duration) -> Interval {
    let mut ticks = tokio::time::interval(every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}

/// Waits for other observers; for ever when there is nobody to name them.
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
