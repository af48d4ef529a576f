//! From the fast path into the queue and back.
//!
//! A delivery becomes a job when its attempt is to be made again, when its action asks for that,
//! or when it has waited behind jobs of its lane for some time or for lack of room. Its lane is
//! blocked then, and opened when the queue was seen to hold nothing of it any more.

use std::sync::Arc;
use std::time::Duration;

use ::queue::{Lane, LaneHead, LanesOfAction, MAX_LANES_PER_QUERY, QueueError};
use crds::config::Mode;
use tokio::time::{Instant, timeout};

use super::in_flight::InFlightDelivery;
use super::queued_lanes::{LaneQuery, MAX_LANES};
use super::{Dispatcher, MAX_AHEAD, MAX_HELD_BYTES, MAX_JOBS, MAX_PENDING};
use crate::capture::reader::shard_of;
use crate::jobs::payload::Spilled;
use crate::observers::{LaneId, Target};

/// How long a delivery waits here for the jobs before it, and becomes one of them then.
const PATIENCE: Duration = Duration::from_secs(1);

/// Between two questions for all lanes that have jobs.
const LANES_EVERY: Duration = Duration::from_secs(1);

/// How long the queue may take to answer.
const ANSWER: Duration = Duration::from_secs(10);

/// What the queue says.
#[derive(Debug)]
pub(crate) enum QueueResponse {
    /// Of some lanes, what their first job is.
    Heads(Vec<(LaneQuery, Option<LaneHead>)>),
    /// All lanes with jobs.
    Lanes(Vec<LanesOfAction>),
    /// Nothing.
    Failed(String),
}

impl Dispatcher {
    /// Whether all deliveries of a target go by the queue.
    pub(crate) fn is_queued(&self, target: Target) -> bool {
        self.targets
            .target(target)
            .is_some_and(|compiled| compiled.queue.mode == Mode::Queued)
            || self.queued.is_overflowed(target)
    }

    /// Makes a job of a delivery that is in no lane any more.
    pub(crate) fn spill(&mut self, lane: LaneId, work: InFlightDelivery, due: Instant) {
        let Some(compiled) = self.targets.target(lane.0) else {
            return;
        };
        let compiled = Arc::clone(compiled);
        self.ledger.hand_to_queue(work.place, compiled.name.clone());
        self.enqueue(
            lane,
            work.of.0,
            Spilled {
                event: work.event,
                name: compiled.name.clone(),
                again: None,
                replay: false,
                lane: None,
                key: lane.1,
                priority: compiled.priority(),
                attempts: work.attempts,
                history: work.history,
                attempts_before: 0,
                due,
            },
        );
    }

    /// Has a job added with the next save. What it weighs is held until then.
    pub(crate) fn enqueue(&mut self, lane: LaneId, shard: u16, mut job: Spilled) {
        job.key = lane.1;
        let known = self.targets.target(lane.0);
        let (now, told_apart) = (
            Instant::now(),
            known.is_some_and(|known| known.tells_keys_apart()),
        );
        // While its receiver is left alone nobody could work on it however soon it is saved.
        let soon = now + self.setup.save_every;
        let room = known.and_then(|known| known.action.room(now));
        let can_begin = room.is_none_or(|room| room.most > 0 || room.next < soon);
        if told_apart {
            job.lane = Some(lane);
            let blocked = self.queued.contains(lane);
            let crowded = self.queued.job_added(lane);
            if crowded {
                self.crowded(lane.0);
            } else if !blocked && self.queued.contains(lane) {
                self.lanes.block(lane);
            }
        }
        self.job_due |= job.due <= now && can_begin;
        self.unsaved.jobs.push((shard, job));
    }

    /// All that waits in blocked lanes of a target becomes jobs, since they are not told apart any
    /// more.
    pub(crate) fn crowded(&mut self, target: Target) {
        let (observer, action) = match self.targets.target(target) {
            Some(compiled) => compiled.name.clone(),
            None => return,
        };
        tracing::info!(
            observer = &*observer,
            action = &*action,
            "more than {MAX_LANES} keys have jobs, so all deliveries of the action go by the queue"
        );
        for lane in self.lanes.blocked_lanes(target) {
            self.spill_all(lane);
        }
    }

    /// All that waits in a blocked lane becomes jobs, and the lane is not told apart any more.
    pub(crate) fn spill_all(&mut self, lane: LaneId) {
        self.spill_from(lane, |_| true);
        self.lanes.unblock(lane);
    }

    /// The first deliveries of a blocked lane become jobs, up to one that is to stay.
    fn spill_from(&mut self, lane: LaneId, goes: impl Fn(&InFlightDelivery) -> bool) {
        let now = Instant::now();
        for work in self.lanes.drain_blocked(lane, goes) {
            self.spill(lane, work, now);
        }
    }

    /// Jobs are in the queue.
    pub(crate) fn enqueued(&mut self, jobs: &[(u16, Spilled)]) {
        let metrics = &self.setup.writer.metrics;
        for (_, job) in jobs {
            let labels = [&*job.name.0, &*job.name.1];
            metrics.jobs.enqueued.with_label_values(&labels).inc();
            if let Some(lane) = job.lane {
                self.queued.job_saved(lane);
            }
        }
        if !jobs.is_empty() {
            self.setup.jobs_added.notify_one();
        }
    }

    /// Takes in which lanes of a shard have jobs.
    pub(super) fn has_jobs(&mut self, actions: &[LanesOfAction]) {
        self.queued.shards_changed();
        for action in actions {
            let name = (Arc::clone(&action.observer), Arc::clone(&action.action));
            let Some(target) = self.targets.find(&name) else {
                continue;
            };
            let known = self.targets.target(target);
            let told_apart = known.is_some_and(|known| known.tells_keys_apart());
            if !told_apart || self.queued.is_overflowed(target) {
                continue;
            }
            let Some(hashes) = &action.hashes else {
                self.queued.overflow(target);
                self.crowded(target);
                continue;
            };
            for hash in hashes {
                if self.queued.insert((target, *hash)) {
                    self.crowded(target);
                    break;
                }
                self.lanes.block((target, *hash));
            }
        }
    }

    /// Asks the queue about lanes that have jobs, unless it still has to answer.
    pub(crate) fn ask_the_queue(&mut self) {
        self.make_room();
        if !self.answers.is_empty() {
            return;
        }
        let lanes = &self.lanes;
        let asked = self
            .queued
            .next_queries(MAX_LANES_PER_QUERY, |lane| lanes.len(lane) > 0);
        let named = |asked: &LaneQuery| {
            let (observer, action) = self.targets.target(asked.lane.0)?.name.clone();
            let hash = asked.lane.1;
            Some((
                *asked,
                Lane {
                    observer,
                    action,
                    hash,
                },
            ))
        };
        let (asked, named): (Vec<LaneQuery>, Vec<Lane>) = asked.iter().filter_map(named).unzip();
        if !asked.is_empty() {
            let queue = Arc::clone(&self.setup.writer.queue);
            self.answers.spawn(async move {
                let firsts = queue.lane_heads(&named);
                answer(firsts, |firsts| {
                    QueueResponse::Heads(asked.into_iter().zip(firsts).collect())
                })
                .await
            });
        }
        let now = Instant::now();
        if now >= self.next_lanes && self.queued.begin_listing() {
            self.next_lanes = now + LANES_EVERY;
            let queue = Arc::clone(&self.setup.writer.queue);
            let shards: Vec<u16> = self.shards.keys().copied().collect();
            let of = self.setup.shards;
            self.answers.spawn(async move {
                answer(
                    queue.lanes_with_jobs(&shards, of, MAX_LANES),
                    QueueResponse::Lanes,
                )
                .await
            });
        }
    }

    /// Takes what the queue says.
    pub(crate) fn answered(&mut self, answer: QueueResponse) {
        match answer {
            QueueResponse::Heads(firsts) => {
                for (asked, first) in firsts {
                    self.first_is(asked, first);
                }
            }
            QueueResponse::Lanes(actions) => self.lanes_are(&actions),
            QueueResponse::Failed(error) => {
                let errors = &self.setup.writer.metrics.database_errors;
                errors.with_label_values(&["jobs"]).inc();
                tracing::debug!(error, "cannot ask for jobs; trying again");
            }
        }
    }

    fn first_is(&mut self, asked: LaneQuery, first: Option<LaneHead>) {
        let lane = asked.lane;
        let (clear, got_on) = self.queued.apply_response(asked, first);
        if clear || got_on {
            self.ledger
                .record_progress(shard_of(lane.1, self.setup.shards));
        }
        if clear {
            self.lanes.unblock(lane);
        } else if self.queued.contains(lane) {
            let now = Instant::now();
            self.spill_from(lane, |work| now - work.since >= PATIENCE);
        }
    }

    fn lanes_are(&mut self, actions: &[LanesOfAction]) {
        let crowded: Vec<Target> = self.queued.overflowed_targets().collect();
        for target in crowded {
            let Some(compiled) = self.targets.target(target) else {
                self.queued.remove_target(target);
                continue;
            };
            let (observer, action) = &compiled.name;
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

    /// Where room is short, what waits in blocked lanes becomes jobs.
    fn make_room(&mut self) {
        let short = self.ledger.pending() > MAX_PENDING / 2
            || self.ledger.tracked_events() > MAX_AHEAD / 2
            || self.held > MAX_HELD_BYTES / 2;
        if !short {
            return;
        }
        let lanes: Vec<LaneId> = self.queued.iter().map(|(lane, _)| lane).collect();
        for lane in lanes {
            if self.unsaved.jobs.len() >= MAX_JOBS {
                return;
            }
            if self.queued.contains(lane) {
                self.spill_from(lane, |_| true);
            }
        }
    }

    /// Sees to it that no lane runs ahead of jobs that were not looked for so far, as those of
    /// targets that there were not.
    pub(crate) fn other_targets(&mut self, were_told_apart: impl Fn(Target) -> bool) {
        for target in 0..self.targets.len() {
            let known = self.targets.target(target);
            match known.map(|known| known.tells_keys_apart()) {
                None => self.queued.remove_target(target),
                Some(true) if !were_told_apart(target) => self.queued.overflow(target),
                Some(true) => {}
                Some(false) => {
                    for lane in self.lanes.blocked_lanes(target) {
                        self.spill_all(lane);
                    }
                    self.queued.remove_target(target);
                }
            }
        }
    }
}

async fn answer<T>(
    asking: impl Future<Output = Result<T, QueueError>>,
    says: impl FnOnce(T) -> QueueResponse,
) -> QueueResponse {
    match timeout(ANSWER, asking).await {
        Ok(Ok(answer)) => says(answer),
        Ok(Err(error)) => QueueResponse::Failed(error.to_string()),
        Err(_) => QueueResponse::Failed("no answer in time".to_owned()),
    }
}
