//! The runs that a worker holds, and which of them begins next.
//!
//! Runs claimed ahead wait here. One action never has more under way than its share: else those of
//! an action whose attempts take long would fill the worker one by one, whenever there was room for a
//! moment, and whatever waits behind them would wait for as long as they take.

use std::collections::{HashMap, VecDeque};

use crate::delivery::ActionName;

/// Runs of actions: those that wait, and how many are held and under way of each action.
pub(crate) struct ReadyBatches<T> {
    waiting: VecDeque<(ActionName, T)>,
    held: HashMap<ActionName, usize>,
    under_way: HashMap<ActionName, usize>,
}

impl<T> Default for ReadyBatches<T> {
    fn default() -> Self {
        Self {
            waiting: VecDeque::new(),
            held: HashMap::new(),
            under_way: HashMap::new(),
        }
    }
}

impl<T> ReadyBatches<T> {
    /// Keeps a run, unless `most` of its action are held already: then it is given back.
    pub(crate) fn add(&mut self, action: ActionName, run: T, most: usize) -> Result<(), T> {
        let held = self.held.entry(action.clone()).or_default();
        if *held >= most {
            return Err(run);
        }
        *held += 1;
        self.waiting.push_back((action, run));
        Ok(())
    }

    /// The first run of an action that has fewer than `share` under way.
    pub(crate) fn next(&mut self, share: usize) -> Option<(ActionName, T)> {
        let under_way = &self.under_way;
        let fits = |(action, _): &(ActionName, T)| under_way.get(action).is_none_or(|n| *n < share);
        let place = self.waiting.iter().position(fits)?;
        let (action, run) = self.waiting.remove(place)?;
        *self.under_way.entry(action.clone()).or_default() += 1;
        Some((action, run))
    }

    /// A run of this action that was under way is no longer held.
    pub(crate) fn ended(&mut self, action: &ActionName) {
        less(&mut self.under_way, action);
        less(&mut self.held, action);
    }

    /// Gives back all that wait.
    pub(crate) fn drain(&mut self) -> Vec<T> {
        let waiting: Vec<(ActionName, T)> = self.waiting.drain(..).collect();
        let back = waiting.into_iter().map(|(action, run)| {
            less(&mut self.held, &action);
            run
        });
        back.collect()
    }

    /// How many are held of each action of which there are any.
    pub(crate) const fn held(&self) -> &HashMap<ActionName, usize> {
        &self.held
    }

    /// How many wait.
    pub(crate) fn len(&self) -> usize {
        self.waiting.len()
    }
}

fn less(counts: &mut HashMap<ActionName, usize>, action: &ActionName) {
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

    use std::sync::Arc;

    use proptest::prelude::*;

    use super::*;

    fn action(n: usize) -> ActionName {
        (Arc::from(format!("default/{n}")), Arc::from("0"))
    }

    #[test]
    fn what_takes_long_leaves_room_whatever_was_claimed_ahead() {
        let mut ready = ReadyBatches::default();
        for n in 0..20 {
            assert_eq!(ready.add(action(0), n, 20), Ok(()));
        }
        assert_eq!(ready.add(action(0), 20, 20), Err(20));
        assert_eq!(ready.add(action(1), 100, 20), Ok(()));
        let begun: Vec<i32> = std::iter::from_fn(|| ready.next(12))
            .map(|(_, run)| run)
            .collect();
        assert_eq!(begun.len(), 13);
        assert_eq!(begun.last(), Some(&100));
        ready.ended(&action(0));
        assert_eq!(ready.next(12), Some((action(0), 12)));
        assert_eq!(ready.held().get(&action(0)), Some(&19));
        assert_eq!(ready.drain(), (13..20).collect::<Vec<_>>());
        assert_eq!(ready.held().get(&action(0)), Some(&12));
    }

    proptest! {
        /// Nothing is lost, none has more than its share, and none waits that has room.
        #[test]
        fn none_has_more_than_its_share_or_waits_beside_room(
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
                        ready.ended(&action(of));
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
