//! The task that owns lanes and ledger.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use chrono::Utc;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, Interval, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use super::lanes::{LaneId, Lanes, Target};
use super::ledger::{Ledger, Place};
use super::observers::Observers;
use super::roster::Roster;
use super::work::{Ended, Origin, Work, attempt, weight};
use super::{
    DispatchError, MAX_AHEAD, MAX_HELD_BYTES, MAX_IN_FLIGHT, MAX_LETTERS, MAX_PENDING,
    REDRIVE_EVERY, Saver, retry,
};
use crate::actions::{Failure, Outcome};
use crate::checkpoint::{CheckpointError, Claim, Save};
use crate::queue::dead_letter::{Letter, Redrive, Verdict};
use crate::source::log::Logged;
use crate::source::reader::{Batch, shard_of};

/// What a dispatcher works with.
#[derive(Debug)]
pub struct Setup {
    /// The observers, and whatever comes in their place.
    pub observers: watch::Receiver<Arc<Observers>>,
    /// The shards.
    pub claim: Claim,
    /// Writes checkpoints.
    pub saver: Saver,
    /// Most attempts of one action under way at once.
    pub max_in_flight: usize,
    /// Time between two saves.
    pub save_every: Duration,
    /// How long a stop waits for attempts under way.
    pub drain: Duration,
}

/// Events of the batch that is being taken in.
#[derive(Debug)]
pub(super) struct Taking {
    window: u64,
    events: VecDeque<Logged>,
    reached: Vec<(usize, crate::source::position::Position)>,
    found_events: bool,
}

/// See the module's words.
#[derive(Debug)]
pub struct Dispatcher {
    pub(super) setup: Setup,
    pub(super) roster: Roster,
    pub(super) lanes: Lanes<Work, Instant>,
    pub(super) ledger: Ledger,
    pub(super) attempts: JoinSet<Ended>,
    pub(super) saves: JoinSet<Result<Save, CheckpointError>>,
    pub(super) polls: JoinSet<Result<Vec<Redrive>, sqlx::Error>>,
    pub(super) taking: Option<Taking>,
    pub(super) unsaved: Save,
    pub(super) redriving: HashSet<i64>,
    pub(super) held: u64,
    pub(super) backlog: u64,
    pub(super) last_read: Option<chrono::DateTime<Utc>>,
}

impl Dispatcher {
    /// Begins where the claim says.
    #[must_use]
    pub fn new(mut setup: Setup) -> Self {
        let roster = Roster::new(Arc::clone(&setup.observers.borrow_and_update()));
        let most = MAX_IN_FLIGHT.max(setup.max_in_flight);
        let start = setup
            .claim
            .shards
            .iter()
            .map(|shard| shard.progress.clone())
            .collect();
        Self {
            lanes: Lanes::new(roster.len(), most, setup.max_in_flight),
            ledger: Ledger::new(start),
            attempts: JoinSet::new(),
            saves: JoinSet::new(),
            polls: JoinSet::new(),
            taking: None,
            unsaved: Save::default(),
            redriving: HashSet::new(),
            held: 0,
            backlog: 0,
            last_read: None,
            roster,
            setup,
        }
    }

    /// Works until `stop`, then drains and saves; or until it must not go on.
    pub async fn run(
        mut self,
        mut batches: mpsc::Receiver<Batch>,
        stop: CancellationToken,
    ) -> Result<(), DispatchError> {
        let mut save_tick = ticks(self.setup.save_every);
        let mut redrive_tick = ticks(REDRIVE_EVERY);
        loop {
            self.take_in();
            self.start();
            let due = self.lanes.next_due();
            tokio::select! {
                () = stop.cancelled() => break,
                batch = batches.recv(), if self.taking.is_none() => match batch {
                    Some(batch) => self.accept(batch),
                    None if stop.is_cancelled() => break,
                    None => return Err(DispatchError::Reader),
                },
                Some(ended) = self.attempts.join_next() => self.ended(ended?),
                Some(saved) = self.saves.join_next() => self.saved(&saved??),
                Some(found) = self.polls.join_next() => self.redrive(found?),
                () = replaced(&mut self.setup.observers) => self.reload(),
                () = sleep_until(due), if due.is_some() => self.lanes.wake(Instant::now()),
                _ = save_tick.tick() => self.tick(),
                _ = redrive_tick.tick() => self.look_for_redrives(),
            }
            if self.unsaved.letters.len() >= MAX_LETTERS {
                self.save();
            }
        }
        self.stop().await
    }

    /// Goes on with other observers. What is pending stays pending.
    fn reload(&mut self) {
        let observers = Arc::clone(&self.setup.observers.borrow_and_update());
        tracing::info!(actions = observers.len(), "going on with other observers");
        let lanes = &self.lanes;
        self.roster
            .replace(observers, |target| lanes.held(target) > 0);
        self.lanes.make_place(self.roster.len());
    }

    fn accept(&mut self, batch: Batch) {
        if let Some(bounds) = &batch.bounds {
            for (shard, _) in &batch.reached {
                self.ledger.open(*shard, batch.window, bounds);
            }
        }
        self.setup
            .saver
            .metrics
            .events
            .inc_by(batch.events.len() as u64);
        self.backlog = batch.backlog;
        self.taking = Some(Taking {
            window: batch.window,
            found_events: !batch.events.is_empty() || batch.bounds.is_none(),
            events: batch.events.into(),
            reached: batch.reached,
        });
    }

    fn has_room(&self) -> bool {
        self.ledger.pending() < MAX_PENDING
            && self.ledger.entries() < MAX_AHEAD
            && self.held < MAX_HELD_BYTES
            && self.unsaved.letters.len() < MAX_LETTERS
    }

    /// Takes events in while there is room for what they call for.
    fn take_in(&mut self) {
        while self.taking.is_some() && self.has_room() {
            let Some(taking) = &mut self.taking else {
                return;
            };
            let window = taking.window;
            if let Some(logged) = taking.events.pop_front() {
                self.enter(logged, window);
            } else if let Some(taken) = self.taking.take() {
                for (shard, position) in taken.reached {
                    self.ledger.reach(shard, position, taken.found_events);
                }
            }
        }
    }

    fn enter(&mut self, logged: Logged, window: u64) {
        let (called, matched) = self.roster.call(&logged);
        for observer in matched {
            self.setup
                .saver
                .metrics
                .matches
                .with_label_values(&[&**observer])
                .inc();
        }
        let shard = shard_of(logged.event.hash, self.setup.claim.shards.len());
        let place: Place = (shard, window, logged.event.log_id);
        let targets: Vec<Target> = called
            .run
            .iter()
            .copied()
            .chain(called.failed.iter().map(|(target, _)| *target))
            .collect();
        let names: Vec<_> = targets
            .iter()
            .filter_map(|target| self.roster.target(*target))
            .map(|known| known.name.clone())
            .collect();
        self.last_read = Some(logged.event.occurred_at);
        let left = self.ledger.enter(place, logged.event.occurred_at, &names);
        if left.is_empty() {
            return;
        }
        let event = Arc::new(logged.event);
        for n in left {
            self.held += weight(&event);
            let mut work = Work::new(Arc::clone(&event), Origin::Log(place));
            if let Some((target, failure)) = n
                .checked_sub(called.run.len())
                .and_then(|n| called.failed.get(n))
            {
                work.note(failure);
                self.give_up(*target, work);
            } else {
                self.lanes.push((targets[n], event.hash), work);
            }
        }
        if self.attempts.is_empty() {
            self.setup.saver.health.pending(Instant::now());
        }
    }

    /// Runs what may run.
    fn start(&mut self) {
        while let Some((lane, work)) = self.lanes.start() {
            work.attempts += 1;
            if let Some(compiled) = self.roster.target(lane.0) {
                self.attempts.spawn(attempt(lane, compiled, work));
            }
        }
    }

    pub(super) fn ended(&mut self, ended: Ended) {
        let Ended {
            lane,
            outcome,
            took,
        } = ended;
        self.count(lane, &outcome, took);
        match outcome {
            Outcome::Done => {
                if let Some(work) = self.lanes.finish(lane) {
                    self.over(lane.0, &work);
                    if let Origin::DeadLetter(id) = work.origin {
                        self.unsaved.verdicts.push(Verdict::Settled(id));
                    }
                }
            }
            Outcome::Retry { failure, after } => self.try_again(lane, &failure, after),
            Outcome::Refused(failure) => {
                if let Some(mut work) = self.lanes.finish(lane) {
                    work.note(&failure);
                    self.give_up(lane.0, work);
                }
            }
        }
        self.setup
            .saver
            .health
            .progress(self.ledger.pending() > 0, Instant::now());
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
        match work.origin {
            Origin::Log(_) => {
                // It is held on to until it is saved.
                self.held += weight(&work.event);
                self.unsaved.letters.push(Letter {
                    event: work.event,
                    observer,
                    action,
                    attempts: work.attempts,
                    history: work.history,
                });
            }
            Origin::DeadLetter(id) => self.unsaved.verdicts.push(Verdict::Failed {
                id,
                attempts: work.attempts,
                history: work.history,
            }),
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
