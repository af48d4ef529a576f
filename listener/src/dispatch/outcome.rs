//! What came of attempts.

use std::time::Duration;

use crds::config::{OnFailure, Ordering};
use tokio::time::Instant;

use super::Dispatcher;
use super::in_flight::{AttemptResult, InFlightDelivery, weight};
use crate::dead_letters::store::Letter;
use crate::delivery::failure::Failure;
use crate::delivery::outcome::Outcome;
use crate::delivery::retry_policy;
use crate::observers::attempt_log;
use crate::observers::{LaneId, Target};

impl Dispatcher {
    pub(super) fn ended(&mut self, ended: AttemptResult) {
        let AttemptResult {
            lane,
            outcome,
            took,
        } = ended;
        let of = self.lanes.head(lane).map(|work| work.of);
        let owned = of.and_then(|(shard, epoch)| {
            let owned = self.shards.get_mut(&shard)?;
            (owned.epoch == epoch).then_some(owned)
        });
        let Some(owned) = owned else {
            // Its shard is in other hands.
            self.dismiss(lane);
            return;
        };
        owned.running = owned.running.saturating_sub(1);
        let leaving = owned.is_leaving();
        if let Some(outcome) = outcome {
            self.count(lane, &outcome, took);
            self.settle(lane, outcome, took);
        } else {
            self.dismiss(lane);
        }
        if leaving {
            self.let_go();
        }
    }

    /// What came of an attempt.
    fn settle(&mut self, lane: LaneId, outcome: Outcome, took: Duration) {
        match outcome {
            Outcome::Done => {
                if let Some(work) = self.lanes.finish(lane) {
                    self.over(lane.0, &work);
                }
            }
            Outcome::Retry { failure, after } => self.try_again(lane, (&failure, took), after),
            Outcome::Held(_) => {
                // The queue takes no more of its jobs than there is room for.
                if let Some(mut work) = self.take_out(lane) {
                    work.attempts = work.attempts.saturating_sub(1);
                    self.wait_in_queue(lane, work, Duration::ZERO);
                }
            }
            Outcome::Refused(failure) => {
                if let Some(mut work) = self.lanes.finish(lane) {
                    work.note(&failure, Some(took));
                    self.give_up(lane.0, work);
                }
            }
        }
    }

    /// A delivery is no longer this process's to make.
    fn dismiss(&mut self, lane: LaneId) {
        if let Some(work) = self.lanes.finish(lane) {
            self.held = self.held.saturating_sub(weight(&work.event));
        }
    }

    fn try_again(
        &mut self,
        lane: LaneId,
        (failure, took): (&Failure, Duration),
        after: Option<Duration>,
    ) {
        let Some(compiled) = self.targets.target(lane.0) else {
            return;
        };
        let policy = compiled.retry;
        let tries = self
            .lanes
            .head(lane)
            .map_or(policy.attempts, |work| work.attempts);
        if let Some(wait) = retry_policy::wait(&policy, tries, after, rand::random()) {
            let compiled = compiled.clone();
            if let Some(mut work) = self.take_out(lane) {
                attempt_log::failed(&compiled, &work.event.id, failure, tries, wait);
                work.note(failure, Some(took));
                self.wait_in_queue(lane, work, wait);
            }
        } else if let Some(mut work) = self.lanes.finish(lane) {
            work.note(failure, Some(took));
            self.give_up(lane.0, work);
        }
    }

    /// Takes out the delivery that runs, which becomes a job. What comes after it waits, where that
    /// is to be in order.
    fn take_out(&mut self, lane: LaneId) -> Option<InFlightDelivery> {
        let known = self.targets.target(lane.0);
        if known.is_some_and(|known| known.ordering == Ordering::None) {
            self.lanes.finish(lane)
        } else {
            self.lanes.finish_and_block(lane)
        }
    }

    fn wait_in_queue(&mut self, lane: LaneId, work: InFlightDelivery, wait: Duration) {
        self.spill(lane, work, Instant::now() + wait);
        if self.is_queued(lane.0) {
            self.spill_all(lane);
        }
    }

    /// A delivery becomes a dead letter, or is dropped where its observer wants that.
    pub(super) fn give_up(&mut self, target: Target, work: InFlightDelivery) {
        self.over(target, &work);
        let Some(compiled) = self.targets.target(target) else {
            return;
        };
        let (observer, action) = compiled.name.clone();
        let metrics = &self.setup.writer.metrics;
        if let Some(last) = work.history.last() {
            let event = (&*work.event.id, &*work.event.entity);
            let then = compiled.on_failure;
            metrics.given_up(event, &compiled.name, work.attempts, last, then);
        }
        if compiled.on_failure == OnFailure::Drop {
            return;
        }
        // It is held on to until it is saved.
        self.held += weight(&work.event);
        let letter = Letter {
            event: work.event,
            observer,
            action,
            attempts: work.attempts,
            history: work.history,
        };
        self.unsaved.dead_letters.push((work.of.0, letter));
    }

    /// Notes in the ledger that an action is over, and gives its room back.
    fn over(&mut self, target: Target, work: &InFlightDelivery) {
        self.held = self.held.saturating_sub(weight(&work.event));
        if let Some(compiled) = self.targets.target(target) {
            self.ledger.complete(work.place, compiled.name.clone());
        }
    }

    fn count(&self, lane: LaneId, outcome: &Outcome, took: Duration) {
        if let Some(compiled) = self.targets.target(lane.0) {
            let metrics = &self.setup.writer.metrics;
            metrics.attempted(&compiled.name, outcome, took);
            if let (Outcome::Done, Some(work)) = (outcome, self.lanes.head(lane)) {
                attempt_log::delivered(compiled, &work.event.id, work.attempts, took);
            }
        }
    }
}
