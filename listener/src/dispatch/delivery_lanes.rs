//! Lanes of deliveries, here and in the queue, and the way from here into the queue and back.
//!
//! A delivery becomes a job when its attempt is to be retried, when its action asks for that, or when
//! it has waited behind jobs of its lane for some time or for lack of room. Its lane is blocked then,
//! and unblocked when the queue has no job of it any more.

use crate::delivery::ActionName;
use std::sync::Arc;
use std::time::Duration;

use ::queue::{Lane, LaneHead, LanesOfAction, MAX_LANES_PER_QUERY};
use crds::config::{Mode, Ordering};
use tokio::time::Instant;

use super::checkpoint_buffer::CheckpointBuffer;
use super::in_flight::InFlightDelivery;
use super::lanes::Lanes;
use super::queued_lanes::{LaneQuery, MAX_LANES, QueuedLanes};
use super::target_table::TargetTable;
use crate::capture::reader::shard_of;
use crate::jobs::payload::PendingJob;
use crate::observers::{Compiled, LaneId, Observers, Target};

/// Maximum number of attempts that run at once, over all actions, unless one action alone may have
/// more.
const MAX_IN_FLIGHT: usize = 512;

/// A delivery that has waited this long behind jobs of its lane becomes a job too.
const MAX_WAIT_BEHIND_JOBS: Duration = Duration::from_secs(1);

/// The deliveries of all targets by lanes, and which lanes have jobs in the queue.
#[derive(Debug)]
pub(super) struct DeliveryLanes {
    targets: TargetTable,
    lanes: Lanes<InFlightDelivery>,
    queued: QueuedLanes,
    shard_count: u16,
    /// Maximum number of requests of an action at once that has no limit of its own.
    max_concurrency: usize,
    /// A job that cannot begin within this time is not committed early.
    checkpoint_interval: Duration,
}

impl DeliveryLanes {
    /// Creates no lanes, for the targets of some observers.
    pub(super) fn new(
        observers: Arc<Observers>,
        shard_count: u16,
        max_concurrency: usize,
        checkpoint_interval: Duration,
    ) -> Self {
        let targets = TargetTable::new(observers);
        let max_running = MAX_IN_FLIGHT.max(max_concurrency);
        let mut lanes = Self {
            lanes: Lanes::new(targets.len(), max_running, max_concurrency),
            queued: QueuedLanes::default(),
            targets,
            shard_count,
            max_concurrency,
            checkpoint_interval,
        };
        lanes.set_limits();
        lanes
    }

    /// Returns the targets.
    pub(super) const fn targets(&self) -> &TargetTable {
        &self.targets
    }

    /// Returns the deliveries by lanes.
    pub(super) const fn lanes(&self) -> &Lanes<InFlightDelivery> {
        &self.lanes
    }

    /// Returns the lanes that have jobs.
    pub(super) const fn queued(&self) -> &QueuedLanes {
        &self.queued
    }

    /// Replaces the observers. Pending deliveries stay pending.
    pub(super) fn replace_observers(
        &mut self,
        observers: Arc<Observers>,
        checkpoint: &mut CheckpointBuffer,
    ) {
        let keyed: Vec<bool> = (0..self.targets.len())
            .map(|target| self.targets.is_keyed(target) == Some(true))
            .collect();
        let (lanes, queued) = (&self.lanes, &self.queued);
        self.targets.replace(observers, |target| {
            lanes.target_len(target) > 0 || queued.has_jobs(target)
        });
        self.lanes.resize(self.targets.len());
        self.set_limits();
        for target in 0..self.targets.len() {
            match self.targets.is_keyed(target) {
                None => self.queued.remove_target(target),
                // It may have jobs that were not tracked so far.
                Some(true) if keyed.get(target) != Some(&true) => self.queued.overflow(target),
                Some(true) => {}
                Some(false) => {
                    self.spill_blocked_lanes(target, checkpoint);
                    self.queued.remove_target(target);
                }
            }
        }
    }

    /// Sets the limits of all targets.
    fn set_limits(&mut self) {
        for target in 0..self.targets.len() {
            let limit = self.targets.limit(target, self.max_concurrency);
            self.lanes
                .set_limit(target, limit.deliveries, limit.batched);
        }
    }

    /// Adds a delivery to its lane, or a job for it where the target's deliveries go by the queue.
    pub(super) fn admit(
        &mut self,
        target: Target,
        delivery: InFlightDelivery,
        checkpoint: &mut CheckpointBuffer,
    ) {
        let Some(compiled) = self.targets.target(target) else {
            return;
        };
        let lane = (target, compiled.lane(&delivery.event, self.shard_count));
        // Earlier deliveries of its lane that are here go first, here.
        if self.is_queued(target) && self.lanes.len(lane) == 0 {
            self.spill(lane, delivery, Instant::now(), checkpoint);
        } else {
            self.lanes.push(lane, delivery);
        }
    }

    /// Starts the next delivery that may run, and returns it with its target.
    pub(super) fn start_next(&mut self) -> Option<(LaneId, &mut InFlightDelivery, &Compiled)> {
        let (lane, delivery) = self.lanes.start_next()?;
        let compiled = self.targets.target(lane.0)?;
        Some((lane, delivery, compiled))
    }

    /// Removes the running delivery of a lane, and lets the next one run.
    pub(super) fn finish(&mut self, lane: LaneId) -> Option<InFlightDelivery> {
        self.lanes.finish(lane)
    }

    /// Removes the running delivery of a lane, which becomes a job. Later ones wait behind it where
    /// they are ordered.
    pub(super) fn take_running(
        &mut self,
        lane: LaneId,
        compiled: &Compiled,
    ) -> Option<InFlightDelivery> {
        match compiled.ordering {
            Ordering::None => self.lanes.finish(lane),
            Ordering::Key => self.lanes.finish_and_block(lane),
        }
    }

    /// Makes a job of a delivery after an attempt, due after a delay.
    pub(super) fn requeue(
        &mut self,
        lane: LaneId,
        delivery: InFlightDelivery,
        delay: Duration,
        checkpoint: &mut CheckpointBuffer,
    ) {
        self.spill(lane, delivery, Instant::now() + delay, checkpoint);
        if self.is_queued(lane.0) {
            self.spill_lane(lane, checkpoint);
        }
    }

    /// Gives a delivery up that is in no lane.
    pub(super) fn give_up(
        &self,
        target: Target,
        delivery: InFlightDelivery,
        checkpoint: &mut CheckpointBuffer,
    ) {
        match self.targets.target(target) {
            Some(compiled) => checkpoint.give_up(delivery, compiled),
            None => checkpoint.discard(&delivery.event),
        }
    }

    /// Removes the waiting deliveries of a shard.
    pub(super) fn remove_waiting(&mut self, shard: u16, checkpoint: &mut CheckpointBuffer) {
        let shard_count = self.shard_count;
        let waiting = self
            .lanes
            .remove_lanes(|hash| shard_of(hash, shard_count) == shard);
        for delivery in waiting {
            checkpoint.discard(&delivery.event);
        }
    }

    /// Removes a shard: its waiting deliveries, and its lanes that have jobs.
    pub(super) fn remove_shard(&mut self, shard: u16, checkpoint: &mut CheckpointBuffer) {
        self.remove_waiting(shard, checkpoint);
        let shard_count = self.shard_count;
        self.queued
            .remove_lanes(|hash| shard_of(hash, shard_count) == shard);
    }

    /// Begins a listing of the lanes of overflowed targets. Returns whether one is needed.
    pub(super) fn begin_listing(&mut self) -> bool {
        self.queued.begin_listing()
    }
}

/// The way into the queue.
impl DeliveryLanes {
    /// Returns whether all deliveries of a target go by the queue.
    fn is_queued(&self, target: Target) -> bool {
        let known = self.targets.target(target);
        known.is_some_and(|known| known.queue.mode == Mode::Queued)
            || self.queued.is_overflowed(target)
    }

    /// Makes a job of a delivery that is in no lane.
    fn spill(
        &mut self,
        lane: LaneId,
        delivery: InFlightDelivery,
        due: Instant,
        checkpoint: &mut CheckpointBuffer,
    ) {
        let Some(compiled) = self.targets.target(lane.0) else {
            return;
        };
        checkpoint.hand_to_queue(&delivery, compiled.name.clone());
        let job = PendingJob {
            event: delivery.event,
            name: compiled.name.clone(),
            again: None,
            replay: false,
            lane: None,
            key: lane.1,
            priority: compiled.priority(),
            attempts: delivery.attempts,
            history: delivery.history,
            attempts_before: 0,
            due,
        };
        self.add_job(lane, delivery.owner.0, job, checkpoint);
    }

    /// Adds a job to the next commit, and blocks its lane where deliveries must wait behind it.
    pub(super) fn add_job(
        &mut self,
        lane: LaneId,
        shard: u16,
        mut job: PendingJob,
        checkpoint: &mut CheckpointBuffer,
    ) {
        let now = Instant::now();
        // While its endpoint is not to be called, no worker could begin it however soon it is saved.
        let soon = now + self.checkpoint_interval;
        let known = self.targets.target(lane.0);
        let room = known.and_then(|known| known.action.capacity(now));
        let can_begin = room.is_none_or(|room| room.available > 0 || room.next_at < soon);
        if self.targets.is_keyed(lane.0) == Some(true) {
            job.lane = Some(lane);
            let was_tracked = self.queued.contains(lane);
            if self.queued.job_added(lane) {
                self.spill_overflowed(lane.0, checkpoint);
            } else if !was_tracked && self.queued.contains(lane) {
                self.lanes.block(lane);
            }
        }
        let is_due = job.due <= now && can_begin;
        checkpoint.add_job(shard, job, is_due);
    }

    /// Makes jobs of all deliveries that wait in blocked lanes of an overflowed target.
    fn spill_overflowed(&mut self, target: Target, checkpoint: &mut CheckpointBuffer) {
        let Some(compiled) = self.targets.target(target) else {
            return;
        };
        let ActionName { observer, action } = &compiled.name;
        tracing::info!(
            observer = &**observer,
            action = &**action,
            "more than {MAX_LANES} keys have jobs, so all deliveries of the action go by the queue"
        );
        self.spill_blocked_lanes(target, checkpoint);
    }

    fn spill_blocked_lanes(&mut self, target: Target, checkpoint: &mut CheckpointBuffer) {
        for lane in self.lanes.blocked_lanes(target) {
            self.spill_lane(lane, checkpoint);
        }
    }

    /// Makes jobs of all deliveries that wait in a blocked lane, and unblocks it.
    fn spill_lane(&mut self, lane: LaneId, checkpoint: &mut CheckpointBuffer) {
        self.spill_while(lane, |_| true, checkpoint);
        self.lanes.unblock(lane);
    }

    /// Makes jobs of the deliveries that wait in a blocked lane, up to one that stays.
    fn spill_while(
        &mut self,
        lane: LaneId,
        goes: impl Fn(&InFlightDelivery) -> bool,
        checkpoint: &mut CheckpointBuffer,
    ) {
        let now = Instant::now();
        for delivery in self.lanes.drain_blocked(lane, goes) {
            self.spill(lane, delivery, now, checkpoint);
        }
    }

    /// Where room is short, makes jobs of the deliveries that wait in blocked lanes.
    pub(super) fn spill_for_room(&mut self, checkpoint: &mut CheckpointBuffer) {
        if !checkpoint.is_short_of_room() {
            return;
        }
        let lanes: Vec<LaneId> = self.queued.iter().map(|(lane, _)| lane).collect();
        for lane in lanes {
            if checkpoint.has_max_jobs() {
                return;
            }
            if self.queued.contains(lane) {
                self.spill_while(lane, |_| true, checkpoint);
            }
        }
    }

    /// Records that jobs are committed.
    pub(super) fn jobs_committed(&mut self, jobs: &[(u16, PendingJob)]) {
        for lane in jobs.iter().filter_map(|(_, job)| job.lane) {
            self.queued.job_saved(lane);
        }
    }
}

/// The way back from the queue.
impl DeliveryLanes {
    /// Adds the lanes of a new shard that have jobs.
    pub(super) fn add_queued_lanes(
        &mut self,
        actions: &[LanesOfAction],
        checkpoint: &mut CheckpointBuffer,
    ) {
        self.queued.shards_changed();
        for action in actions {
            let name = ActionName::new(Arc::clone(&action.observer), Arc::clone(&action.action));
            let Some(target) = self.targets.find(&name) else {
                continue;
            };
            if self.targets.is_keyed(target) != Some(true) || self.queued.is_overflowed(target) {
                continue;
            }
            let Some(hashes) = &action.hashes else {
                self.queued.overflow(target);
                self.spill_overflowed(target, checkpoint);
                continue;
            };
            for hash in hashes {
                if self.queued.insert((target, *hash)) {
                    self.spill_overflowed(target, checkpoint);
                    break;
                }
                self.lanes.block((target, *hash));
            }
        }
    }

    /// Returns the lanes whose heads to query next, with their names in the queue.
    pub(super) fn next_queries(&mut self) -> (Vec<LaneQuery>, Vec<Lane>) {
        let lanes = &self.lanes;
        let is_urgent = |lane| lanes.len(lane) > 0;
        let queries = self.queued.next_queries(MAX_LANES_PER_QUERY, is_urgent);
        let named = |query: &LaneQuery| Some((*query, self.targets.lane_name(query.lane)?));
        queries.iter().filter_map(named).unzip()
    }

    /// Applies the head of a lane: unblocks one without jobs; in others, makes jobs of the deliveries
    /// that have waited for long.
    pub(super) fn apply_head(
        &mut self,
        query: LaneQuery,
        head: Option<LaneHead>,
        checkpoint: &mut CheckpointBuffer,
    ) {
        let lane = query.lane;
        let (is_empty, has_progress) = self.queued.apply_response(query, head);
        if is_empty || has_progress {
            checkpoint.record_progress(shard_of(lane.1, self.shard_count));
        }
        if is_empty {
            self.lanes.unblock(lane);
        } else if self.queued.contains(lane) {
            let now = Instant::now();
            let has_waited =
                |delivery: &InFlightDelivery| now - delivery.since >= MAX_WAIT_BEHIND_JOBS;
            self.spill_while(lane, has_waited, checkpoint);
        }
    }

    /// Applies a listing: tracks the lanes of overflowed targets again that have few enough.
    pub(super) fn apply_listing(&mut self, actions: &[LanesOfAction]) {
        let overflowed: Vec<Target> = self.queued.overflowed_targets().collect();
        for target in overflowed {
            let Some(compiled) = self.targets.target(target) else {
                self.queued.remove_target(target);
                continue;
            };
            let ActionName { observer, action } = &compiled.name;
            let found = actions
                .iter()
                .find(|found| (&found.observer, &found.action) == (observer, action));
            let none: &[u32] = &[];
            let hashes = found.map_or(Some(none), |found| found.hashes.as_deref());
            for lane in self.queued.apply_listing(target, hashes) {
                self.lanes.block(lane);
            }
        }
    }

    /// Returns whether a lane has deliveries here that do not wait behind jobs.
    pub(super) fn is_delivering(&self, lane: LaneId) -> bool {
        self.lanes.len(lane) > 0 && !self.queued.contains(lane)
    }
}
