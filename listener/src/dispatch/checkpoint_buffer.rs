//! Buffer of the next checkpoint commit: the progress of shards, dead letters, jobs and redrive
//! results, and the memory that deliveries take until they are committed.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use chrono::Utc;
use crds::config::{OnFailure, Operation};
use search::DeliveryState;
use server::exemplars::RecordedSpan;
use tokio::sync::Notify;
use tokio::task::{JoinError, JoinSet};
use tokio::time::Instant;
use uuid::Uuid;

use super::checkpoint_writer::{CheckpointWriter, CommitReport};
use super::in_flight::InFlightDelivery;
use super::ledger::{EventOrigin, EventRef, Ledger};
use super::owned_shard::OwnedShards;
use crate::capture::change_log::ChangeRecord;
use crate::capture::position::{Position, Window};
use crate::checkpoint::{CheckpointCommit, CheckpointError, Progress};
use crate::dead_letters::store::{NewDeadLetter, RedriveResult};
use crate::delivery::ActionName;
use crate::delivery::event::Event;
use crate::delivery::report::{DeliveryReport, DeliveryReporter, Success};
use crate::jobs::payload::PendingJob;
use crate::observers::Compiled;
use crate::telemetry::health::Health;

/// Maximum number of pending deliveries; one event's more may be admitted.
const MAX_PENDING: usize = 8192;

/// Maximum number of events tracked ahead of the oldest pending one.
const MAX_TRACKED_EVENTS: usize = 16_384;

/// Maximum bytes of images of events that are not committed; one event more may be admitted.
const MAX_BUFFERED_BYTES: u64 = 16 << 20;

/// Maximum number of jobs that wait to be committed; one event's more may be added.
const MAX_JOBS: usize = 2048;

/// Maximum number of dead letters that wait to be committed; one event's more may be added.
const MAX_DEAD_LETTERS: usize = 256;

/// A job that is due is committed after this delay, unless the commit before still runs.
const DUE_JOB_DELAY: Duration = Duration::from_millis(20);

/// The ledger, the contents of the next commit besides positions, and the commit that runs.
#[derive(Debug)]
pub(super) struct CheckpointBuffer {
    ledger: Ledger,
    next: CheckpointCommit,
    /// Whether jobs that are due are among the next commit's.
    has_due_job: bool,
    /// Bytes of the events of pending deliveries, and of jobs and dead letters that are not committed.
    buffered_bytes: u64,
    /// The commit that runs, at most one.
    commits: JoinSet<Result<CommitReport, CheckpointError>>,
    last_commit: Instant,
    writer: CheckpointWriter,
    /// Is told when jobs are added to the queue.
    jobs_added: Arc<Notify>,
    /// Is told what becomes of deliveries.
    deliveries: DeliveryReporter,
}

impl CheckpointBuffer {
    /// Creates an empty buffer.
    pub(super) fn new(
        writer: CheckpointWriter,
        jobs_added: Arc<Notify>,
        deliveries: DeliveryReporter,
    ) -> Self {
        Self {
            ledger: Ledger::default(),
            next: CheckpointCommit::default(),
            has_due_job: false,
            buffered_bytes: 0,
            commits: JoinSet::new(),
            last_commit: Instant::now(),
            writer,
            jobs_added,
            deliveries,
        }
    }

    /// Returns the health, which is told of commits.
    pub(super) fn health(&self) -> &Health {
        &self.writer.health
    }

    /// Returns the ledger.
    pub(super) const fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// Adds a shard at the progress of its checkpoint.
    pub(super) fn add_shard(&mut self, shard: u16, progress: Progress) {
        self.ledger.add_shard(shard, progress);
    }

    /// Removes a shard, with all that is not committed of it.
    pub(super) fn drop_shard(&mut self, shard: u16) {
        self.ledger.remove_shard(shard);
        for event in self.next.drop_shards(&BTreeSet::from([shard])) {
            self.discard(&event);
        }
    }

    /// Opens a window of a shard.
    pub(super) fn open_window(&mut self, shard: u16, number: u64, window: &Window) {
        self.ledger.open_window(shard, number, window);
    }

    /// Advances a shard past all events that were registered.
    pub(super) fn advance(&mut self, shard: u16, position: Position, worth_saving: bool) {
        self.ledger.advance(shard, position, worth_saving);
    }

    /// Registers an event with the actions that match it. Returns the indexes in `actions` of those
    /// that are pending, and counts the memory of their deliveries.
    pub(super) fn register(
        &mut self,
        event: EventRef,
        record: &ChangeRecord,
        actions: &[ActionName],
    ) -> Vec<usize> {
        let origin = EventOrigin {
            hash: record.event.hash,
            xid: record.xid,
            occurred_at: record.event.occurred_at,
        };
        let pending = self.ledger.register(event, origin, actions);
        if pending.is_empty() {
            self.note_arrival(&record.event);
        }
        self.buffered_bytes += weight(&record.event) * pending.len() as u64;
        pending
    }

    /// Completes a delivery that an endpoint has accepted, or that need not be sent.
    pub(super) fn delivered(
        &mut self,
        delivery: &InFlightDelivery,
        name: &ActionName,
        (took, span): (Duration, Option<RecordedSpan>),
        unsent: Option<&'static str>,
    ) {
        self.complete(delivery, name);
        let now = Utc::now();
        if unsent.is_none() {
            let metrics = &self.writer.metrics;
            metrics.record_delivered(name, delivery.event.occurred_at, now, span);
        }
        self.deliveries.report(|| DeliveryReport {
            success: Some(Success {
                at: now,
                took,
                unsent,
            }),
            ..delivery.report(name, DeliveryState::Delivered)
        });
    }

    /// Completes a delivery.
    fn complete(&mut self, delivery: &InFlightDelivery, name: &ActionName) {
        self.settle(delivery);
        self.discard(&delivery.event);
        self.ledger.complete(delivery.event_ref, name.clone());
    }

    /// Takes note that a delivery has ended here.
    fn settle(&self, delivery: &InFlightDelivery) {
        delivery.settle();
        self.note_arrival(&delivery.event);
        if delivery.event.operation != Operation::Read {
            self.writer.arrivals.note_live();
        }
    }

    /// Tells backfills of their rows with which nothing is left to do here.
    fn note_arrival(&self, event: &Event) {
        if event.operation == Operation::Read {
            self.writer.arrivals.note(event.occurred_at);
        }
    }

    /// Completes a delivery by a dead letter, unless its observer drops those that fail.
    pub(super) fn give_up(&mut self, delivery: InFlightDelivery, compiled: &Compiled) {
        self.complete(&delivery, &compiled.name);
        let on_failure = compiled.on_failure;
        if let Some(last) = delivery.history.last() {
            let event = (&*delivery.event.id, &*delivery.event.entity);
            let (metrics, attempts) = (&self.writer.metrics, delivery.attempts);
            metrics.record_failed_delivery(event, &compiled.name, attempts, last, on_failure);
        }
        if on_failure == OnFailure::Drop {
            self.deliveries
                .report(|| delivery.report(&compiled.name, DeliveryState::Dropped));
            return;
        }
        self.buffered_bytes += weight(&delivery.event);
        let ActionName { observer, action } = compiled.name.clone();
        let letter = NewDeadLetter {
            event: delivery.event,
            observer,
            action,
            attempts: delivery.attempts,
            history: delivery.history,
        };
        self.next.dead_letters.push((delivery.owner.0, letter));
    }

    /// Releases the memory of a delivery that is not made here.
    pub(super) fn discard(&mut self, event: &Event) {
        self.buffered_bytes = self.buffered_bytes.saturating_sub(weight(event));
    }

    /// Hands a delivery over to the queue, whose job [`Self::add_job`] adds.
    pub(super) fn hand_to_queue(&mut self, delivery: &InFlightDelivery, name: ActionName) {
        self.settle(delivery);
        self.ledger.hand_to_queue(delivery.event_ref, name);
    }

    /// Adds a job. One that is due is committed soon.
    pub(super) fn add_job(&mut self, shard: u16, job: PendingJob, is_due: bool) {
        self.has_due_job |= is_due;
        self.next.jobs.push((shard, job));
    }

    /// Counts the memory of an event whose job or dead letter is added next.
    pub(super) fn retain(&mut self, event: &Event) {
        self.buffered_bytes += weight(event);
    }

    /// Adds the result of a redriven dead letter.
    pub(super) fn add_redrive_result(&mut self, shard: u16, result: RedriveResult) {
        self.next.redrive_results.push((shard, result));
    }

    /// Records progress of a shard that was made in the queue.
    pub(super) fn record_progress(&mut self, shard: u16) {
        self.ledger.record_progress(shard);
    }

    /// Sets which shards have jobs in the queue.
    pub(super) fn set_shards_with_jobs(&mut self, shards: &BTreeSet<u16>) {
        self.ledger.set_shards_with_jobs(shards);
    }

    /// Returns whether another event may be admitted.
    pub(super) fn has_room(&self) -> bool {
        self.ledger.pending() < MAX_PENDING
            && self.ledger.tracked_events() < MAX_TRACKED_EVENTS
            && self.buffered_bytes < MAX_BUFFERED_BYTES
            && !self.must_commit()
    }

    /// Returns whether more than half of the room for pending deliveries is taken.
    pub(super) fn is_short_of_room(&self) -> bool {
        self.ledger.pending() > MAX_PENDING / 2
            || self.ledger.tracked_events() > MAX_TRACKED_EVENTS / 2
            || self.buffered_bytes > MAX_BUFFERED_BYTES / 2
    }

    /// Returns whether no further jobs should be added before a commit.
    pub(super) const fn has_max_jobs(&self) -> bool {
        self.next.jobs.len() >= MAX_JOBS
    }

    /// Returns whether jobs or dead letters leave no room before a commit.
    pub(super) const fn must_commit(&self) -> bool {
        self.next.dead_letters.len() >= MAX_DEAD_LETTERS || self.has_max_jobs()
    }

    /// Returns when to commit because of a job that is due.
    pub(super) fn next_commit_at(&self) -> Option<Instant> {
        (self.has_due_job && self.commits.is_empty()).then(|| self.last_commit + DUE_JOB_DELAY)
    }

    /// Starts a commit of all that is not committed, and releases drained shards, unless a commit runs.
    pub(super) fn commit(&mut self, shards: &OwnedShards) {
        if !self.commits.is_empty() {
            return;
        }
        self.last_commit = Instant::now();
        self.has_due_job = false;
        let mut commit = std::mem::take(&mut self.next);
        commit.positions = self.ledger.take_progress();
        commit.released_shards = shards.drained();
        commit.id = Uuid::new_v4();
        let positions = commit.positions.iter().map(|(shard, _)| *shard);
        let dead_letters = commit.dead_letters.iter().map(|(shard, _)| *shard);
        let results = commit.redrive_results.iter().map(|(shard, _)| *shard);
        let jobs = commit.jobs.iter().map(|(shard, _)| *shard);
        let concerned = positions.chain(dead_letters).chain(results).chain(jobs);
        let concerned = concerned.chain(commit.released_shards.iter().copied());
        let epoch = |shard: u16| Some((shard, shards.epoch(shard)?));
        commit.epochs = concerned.filter_map(epoch).collect();
        if !commit.is_empty() {
            self.commits.spawn(self.writer.clone().write(commit));
        }
    }

    /// Waits for the running commit; `None` if none runs.
    pub(super) async fn next_report(
        &mut self,
    ) -> Option<Result<Result<CommitReport, CheckpointError>, JoinError>> {
        self.commits.join_next().await
    }

    /// Releases the memory of what was committed, and announces its jobs.
    pub(super) fn committed(&mut self, report: &CommitReport) {
        let retained = report.commit.retained_events();
        for event in retained.chain(&report.fenced_events) {
            self.discard(event);
        }
        let enqueued = &self.writer.metrics.jobs.enqueued;
        for (_, job) in &report.commit.jobs {
            let labels = [&*job.name.observer, &*job.name.action];
            enqueued.with_label_values(&labels).inc();
        }
        if !report.commit.jobs.is_empty() {
            self.jobs_added.notify_one();
        }
        let now = Instant::now();
        for (_, job) in &report.commit.jobs {
            self.deliveries.report(|| job.report(now));
        }
        for (_, letter) in &report.commit.dead_letters {
            self.deliveries.report(|| letter.report());
        }
    }
}

/// Returns the bytes that a delivery of an event counts: those of the event, and a flat share.
fn weight(event: &Event) -> u64 {
    const SHARE: u64 = 512;
    SHARE + event.bytes()
}
