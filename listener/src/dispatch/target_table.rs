//! The targets of the observers of the moment and of those before, under numbers that stay.
//!
//! A target keeps its number as long as its observer has an action of that name, whatever else
//! changes; its later attempts follow what is new. One that is gone is called by no event any
//! more, and keeps its number and its old ways until its last delivery is over. Only then may its
//! number be given to another, so that no delivery ever goes where it was not meant to.

use std::collections::HashMap;
use std::sync::Arc;

use crate::capture::change_log::ChangeRecord;
use crate::delivery::ActionName;
use crate::delivery::event::Event;
use crate::matching::Verdict;
use crate::observers::Target;
use crate::observers::{Called, Compiled, Observers};

/// Observers, with a lasting number for each of their targets.
#[derive(Debug)]
pub struct Roster {
    observers: Arc<Observers>,
    /// For each target of the observers, its lasting number.
    numbers: Vec<Target>,
    /// By lasting number; nothing where it is free.
    targets: Vec<Option<Arc<Compiled>>>,
}

impl Roster {
    /// The first observers.
    #[must_use]
    pub fn new(observers: Arc<Observers>) -> Self {
        Self {
            numbers: (0..observers.len()).collect(),
            targets: observers.targets().iter().cloned().map(Some).collect(),
            observers,
        }
    }

    /// Puts other observers in the place of those before. `is_pending` says of a target whether
    /// it has deliveries that are not over.
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

    /// Number of numbers, those that are free included.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.targets.len()
    }

    /// Whether there is none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.targets.is_empty()
    }

    /// A target.
    #[must_use]
    pub fn target(&self, target: Target) -> Option<&Arc<Compiled>> {
        self.targets.get(target)?.as_ref()
    }

    /// The target of that name, if the observer still has it.
    #[must_use]
    pub fn find(&self, name: &ActionName) -> Option<Target> {
        self.numbers.get(self.observers.find(name)?).copied()
    }

    /// What an event calls for, and the observers that match it.
    #[must_use]
    pub fn call(&self, logged: &ChangeRecord) -> (Called, Vec<&Arc<str>>) {
        let (mut called, matched) = self.observers.call(logged);
        let failed = called.failed.iter_mut().map(|(target, _)| target);
        for target in called.run.iter_mut().chain(failed) {
            *target = self.numbers[*target];
        }
        (called, matched)
    }

    /// See [`Observers::decide`].
    #[must_use]
    pub fn decide(&self, event: &Event, observer: &str) -> Option<Verdict> {
        self.observers.decide(event, observer)
    }
}

#[cfg(test)]
mod tests;
