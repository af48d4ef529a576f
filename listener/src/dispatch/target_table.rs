//! Table of targets (an action of an observer), under numbers that stay the same across reloads.
//!
//! A target keeps its number as long as its observer has an action of that name; its later attempts
//! use the new settings. A removed target matches no further event, and keeps its number and its old
//! settings until its last delivery is completed. Only then may its number be reused, so that no
//! delivery ever goes to another target.

use std::collections::HashMap;
use std::sync::Arc;

use ::queue::Lane;

use crate::capture::change_log::ChangeRecord;
use crate::delivery::ActionName;
use crate::delivery::event::Event;
use crate::matching::RuleMatch;
use crate::observers::{Compiled, LaneId, MatchedTargets, Observers, Target};

/// Maximum number of deliveries of an action that run at once where they share requests, unless it may
/// have more requests.
const MAX_BATCHED_IN_FLIGHT: usize = 2048;

/// How many deliveries of a target may run at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TargetLimit {
    /// Maximum number of deliveries.
    pub deliveries: usize,
    /// Whether they share requests.
    pub batched: bool,
}

/// The observers, with a stable number for each of their targets.
#[derive(Debug)]
pub struct TargetTable {
    observers: Arc<Observers>,
    /// The stable number of each target of the observers.
    numbers: Vec<Target>,
    /// By stable number; `None` where it is free.
    targets: Vec<Option<Arc<Compiled>>>,
}

impl TargetTable {
    /// Creates the table of the first observers.
    #[must_use]
    pub fn new(observers: Arc<Observers>) -> Self {
        Self {
            numbers: (0..observers.len()).collect(),
            targets: observers.targets().iter().cloned().map(Some).collect(),
            observers,
        }
    }

    /// Replaces the observers. `is_pending` returns whether a target has pending deliveries.
    pub fn replace(&mut self, observers: Arc<Observers>, is_pending: impl Fn(Target) -> bool) {
        let known = self.targets.iter().enumerate();
        let known: HashMap<ActionName, Target> = known
            .filter_map(|(n, target)| Some((target.as_ref()?.name.clone(), n)))
            .collect();
        for (n, target) in self.targets.iter_mut().enumerate() {
            let stays =
                |target: &Arc<Compiled>| observers.find(&target.name).is_some() || is_pending(n);
            if !target.as_ref().is_some_and(stays) {
                *target = None;
            }
        }
        let mut free = 0;
        self.numbers.clear();
        for target in observers.targets() {
            let number = known.get(&target.name).copied().unwrap_or_else(|| {
                while self.targets.get(free).is_some_and(Option::is_some) {
                    free += 1;
                }
                free
            });
            if number == self.targets.len() {
                self.targets.push(None);
            }
            self.targets[number] = Some(Arc::clone(target));
            self.numbers.push(number);
        }
        self.observers = observers;
    }

    /// Returns how many numbers there are, with free ones.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.targets.len()
    }

    /// Returns whether there is none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.targets.is_empty()
    }

    /// Returns a target.
    #[must_use]
    pub fn target(&self, target: Target) -> Option<&Arc<Compiled>> {
        self.targets.get(target)?.as_ref()
    }

    /// Returns whether the lanes of a target are tracked by key; `None` if there is no such target.
    #[must_use]
    pub fn is_keyed(&self, target: Target) -> Option<bool> {
        Some(self.target(target)?.is_keyed())
    }

    /// Returns the limit of a target; without a limit of its own, it is `max_concurrency` requests.
    #[must_use]
    pub fn limit(&self, target: Target, max_concurrency: usize) -> TargetLimit {
        let known = self.target(target);
        let requests = known.and_then(|known| known.max_in_flight);
        let requests = requests.unwrap_or(max_concurrency);
        match known.and_then(|known| known.action.max_batch_size()) {
            Some(batch_size) => TargetLimit {
                deliveries: requests
                    .saturating_mul(batch_size)
                    .min(MAX_BATCHED_IN_FLIGHT.max(requests)),
                batched: true,
            },
            None => TargetLimit {
                deliveries: requests,
                batched: false,
            },
        }
    }

    /// Returns the name of a lane in the queue.
    #[must_use]
    pub fn lane_name(&self, (target, hash): LaneId) -> Option<Lane> {
        let ActionName { observer, action } = self.target(target)?.name.clone();
        Some(Lane {
            observer,
            action,
            hash,
        })
    }

    /// Returns the target of that name, if the observer still has it.
    #[must_use]
    pub fn find(&self, name: &ActionName) -> Option<Target> {
        self.numbers.get(self.observers.find(name)?).copied()
    }

    /// Matches an event: returns its targets, and the observers that match it.
    #[must_use]
    pub fn match_event(&self, logged: &ChangeRecord) -> (MatchedTargets, Vec<&Arc<str>>) {
        let (mut called, matched) = self.observers.match_event(logged);
        let failed = called.failed.iter_mut().map(|(target, _)| target);
        for target in called.run.iter_mut().chain(failed) {
            *target = self.numbers[*target];
        }
        (called, matched)
    }

    /// See [`Observers::decide`].
    #[must_use]
    pub fn decide(&self, event: &Event, observer: &str) -> Option<RuleMatch> {
        self.observers.decide(event, observer)
    }
}

#[cfg(test)]
mod tests;
