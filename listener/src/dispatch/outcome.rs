//! What came of attempts.

use std::time::Duration;

use tokio::time::Instant;

use super::lanes::{LaneId, Target};
use super::work::{Ended, Origin, Work, weight};
use super::{Dispatcher, retry};
use crate::actions::{Failure, Outcome};
use crate::queue::dead_letter::{Letter, Verdict};

impl Dispatcher {
    pub(super) fn ended(&mut self, ended: Ended) {
        let Ended {
            lane,
            outcome,
            took,
        } = ended;
        let of = self.lanes.first(lane).map(|work| work.of);
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
            self.settle(lane, outcome, leaving);
        } else {
            self.dismiss(lane);
        }
        if leaving {
            self.let_go();
        }
    }

    /// What came of an attempt.
    fn settle(&mut self, lane: LaneId, outcome: Outcome, leaving: bool) {
        match outcome {
            Outcome::Done => {
                if let Some(work) = self.lanes.finish(lane) {
                    self.over(lane.0, &work);
                    if let Origin::DeadLetter(id) = work.origin {
                        let settled = (work.of.0, Verdict::Settled(id));
                        self.unsaved.verdicts.push(settled);
                    }
                }
            }
            // The next owner tries again.
            Outcome::Retry { .. } if leaving => self.dismiss(lane),
            Outcome::Retry { failure, after } => self.try_again(lane, &failure, after),
            Outcome::Refused(failure) => {
                if let Some(mut work) = self.lanes.finish(lane) {
                    work.note(&failure);
                    self.give_up(lane.0, work);
                }
            }
        }
    }

    /// A delivery is no longer this process's to make.
    fn dismiss(&mut self, lane: LaneId) {
        if let Some(work) = self.lanes.finish(lane) {
            self.held = self.held.saturating_sub(weight(&work.event));
            if let Origin::DeadLetter(id) = work.origin {
                self.redriving.remove(&id);
            }
        }
    }

    fn try_again(&mut self, lane: LaneId, failure: &Failure, after: Option<Duration>) {
        let Some(compiled) = self.roster.target(lane.0) else {
            return;
        };
        let policy = compiled.retry;
        let attempts = self
            .lanes
            .first(lane)
            .map_or(policy.attempts, |work| work.attempts);
        if let Some(wait) = retry::wait(&policy, attempts, after, rand::random()) {
            if let Some(work) = self.lanes.wait(lane, Instant::now() + wait) {
                work.note(failure);
            }
        } else if let Some(mut work) = self.lanes.finish(lane) {
            work.note(failure);
            self.give_up(lane.0, work);
        }
    }

    /// A delivery becomes a dead letter, or stays one.
    pub(super) fn give_up(&mut self, target: Target, work: Work) {
        self.over(target, &work);
        let Some(compiled) = self.roster.target(target) else {
            return;
        };
        let (observer, action) = compiled.name.clone();
        if let Some(last) = work.history.last() {
            let labels = [&*observer, &*action, last.kind.as_str()];
            self.setup
                .saver
                .metrics
                .dead_letters
                .with_label_values(&labels)
                .inc();
            tracing::warn!(
                event = work.event.id,
                entity = &*work.event.entity,
                observer = &*observer,
                action = &*action,
                attempts = work.attempts,
                kind = last.kind,
                error = last.error,
                "given up; kept as a dead letter"
            );
        }
        let shard = work.of.0;
        match work.origin {
            Origin::Log(_) => {
                // It is held on to until it is saved.
                self.held += weight(&work.event);
                let letter = Letter {
                    event: work.event,
                    observer,
                    action,
                    attempts: work.attempts,
                    history: work.history,
                };
                self.unsaved.letters.push((shard, letter));
            }
            Origin::DeadLetter(id) => {
                let failed = Verdict::Failed {
                    id,
                    attempts: work.attempts,
                    history: work.history,
                };
                self.unsaved.verdicts.push((shard, failed));
            }
        }
    }

    /// Notes in the ledger that an action is over, and gives its room back.
    fn over(&mut self, target: Target, work: &Work) {
        self.held = self.held.saturating_sub(weight(&work.event));
        if let (Origin::Log(place), Some(compiled)) = (work.origin, self.roster.target(target)) {
            self.ledger.done(place, compiled.name.clone());
        }
    }

    fn count(&self, (target, _): LaneId, outcome: &Outcome, took: Duration) {
        let Some(compiled) = self.roster.target(target) else {
            return;
        };
        let (observer, action) = (&*compiled.name.0, &*compiled.name.1);
        let outcome = match outcome {
            Outcome::Done => "done",
            Outcome::Retry { .. } => "retry",
            Outcome::Refused(_) => "refused",
        };
        let metrics = &self.setup.saver.metrics;
        metrics
            .actions
            .with_label_values(&[observer, action, outcome])
            .inc();
        metrics
            .durations
            .with_label_values(&[observer, action])
            .observe(took.as_secs_f64());
    }
}
