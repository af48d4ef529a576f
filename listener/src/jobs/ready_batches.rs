//! Batches that a worker holds, and which of them starts next.
//!
//! Batches that are claimed ahead wait here. No action runs more lanes than its share: otherwise those of
//! a slow action would fill the worker one by one, and all others would wait for as long as they take.

use std::collections::{HashMap, VecDeque};

use crate::delivery::ActionName;

/// Batches that wait, and the number of lanes held and running by action.
pub(crate) struct ReadyBatches<T> {
    waiting: VecDeque<(ActionName, T)>,
    held: HashMap<ActionName, usize>,
    running: HashMap<ActionName, usize>,
}

impl<T> Default for ReadyBatches<T> {
    fn default() -> Self {
        Self {
            waiting: VecDeque::new(),
            held: HashMap::new(),
            running: HashMap::new(),
        }
    }
}

impl<T> ReadyBatches<T> {
    /// Adds a batch, or returns it if `most` of its action are held already.
    pub(crate) fn add(&mut self, action: ActionName, batch: T, most: usize) -> Result<(), T> {
        let held = self.held.entry(action.clone()).or_default();
        if *held >= most {
            return Err(batch);
        }
        *held += 1;
        self.waiting.push_back((action, batch));
        Ok(())
    }

    /// Takes the first batch of an action that runs fewer than `share`.
    pub(crate) fn next(&mut self, share: usize) -> Option<(ActionName, T)> {
        let running = &self.running;
        let fits = |(action, _): &(ActionName, T)| running.get(action).is_none_or(|n| *n < share);
        let index = self.waiting.iter().position(fits)?;
        let (action, batch) = self.waiting.remove(index)?;
        *self.running.entry(action.clone()).or_default() += 1;
        Some((action, batch))
    }

    /// Removes a running batch of this action.
    pub(crate) fn finished(&mut self, action: &ActionName) {
        decrement(&mut self.running, action);
        decrement(&mut self.held, action);
    }

    /// Takes all batches that wait.
    pub(crate) fn drain(&mut self) -> Vec<T> {
        let waiting: Vec<(ActionName, T)> = self.waiting.drain(..).collect();
        let batches = waiting.into_iter().map(|(action, batch)| {
            decrement(&mut self.held, &action);
            batch
        });
        batches.collect()
    }

    /// Returns the number of lanes held by action.
    pub(crate) const fn held(&self) -> &HashMap<ActionName, usize> {
        &self.held
    }

    /// Returns the number of batches that wait.
    pub(crate) fn len(&self) -> usize {
        self.waiting.len()
    }
}

fn decrement(counts: &mut HashMap<ActionName, usize>, action: &ActionName) {
    if let Some(count) = counts.get_mut(action) {
        *count -= 1;
        if *count == 0 {
            counts.remove(action);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]

    use proptest::prelude::*;

    use super::*;

    fn action(n: usize) -> ActionName {
        ActionName::new(format!("default/{n}"), "0")
    }

    #[test]
    fn slow_action_leaves_capacity_for_others() {
        let mut ready = ReadyBatches::default();
        for n in 0..20 {
            assert_eq!(ready.add(action(0), n, 20), Ok(()));
        }
        assert_eq!(ready.add(action(0), 20, 20), Err(20));
        assert_eq!(ready.add(action(1), 100, 20), Ok(()));
        let started: Vec<i32> = std::iter::from_fn(|| ready.next(12))
            .map(|(_, batch)| batch)
            .collect();
        assert_eq!(started.len(), 13);
        assert_eq!(started.last(), Some(&100));
        ready.finished(&action(0));
        assert_eq!(ready.next(12), Some((action(0), 12)));
        assert_eq!(ready.held().get(&action(0)), Some(&19));
        assert_eq!(ready.drain(), (13..20).collect::<Vec<_>>());
        assert_eq!(ready.held().get(&action(0)), Some(&12));
    }

    proptest! {
        /// No batch is lost, no action exceeds its share, and none waits that could start.
        #[test]
        fn no_action_exceeds_its_share_or_waits_needlessly(
            steps in prop::collection::vec((0..4_usize, 0..3_u8), 1..200), share in 1..5_usize,
        ) {
            let mut ready = ReadyBatches::default();
            let (mut added, mut begun, mut ended) = ([0; 4], [0; 4], [0; 4]);
            for (of, step) in steps {
                match step {
                    0 => added[of] += usize::from(ready.add(action(of), of, 6).is_ok()),
                    1 => if let Some((_, of)) = ready.next(share) {
                        begun[of] += 1;
                    } else {
                        for of in 0..4 {
                            prop_assert!(added[of] == begun[of] || begun[of] - ended[of] == share);
                        }
                    },
                    _ => if begun[of] > ended[of] {
                        ready.finished(&action(of));
                        ended[of] += 1;
                    },
                }
                for of in 0..4 {
                    prop_assert!(begun[of] - ended[of] <= share);
                    let held = ready.held().get(&action(of)).copied().unwrap_or(0);
                    prop_assert_eq!(held, added[of] - ended[of]);
                    prop_assert!(held <= 6);
                }
            }
            let waiting: usize = (0..4).map(|of| added[of] - begun[of]).sum();
            prop_assert_eq!(ready.len(), waiting);
            prop_assert_eq!(ready.drain().len(), waiting);
        }
    }
}
