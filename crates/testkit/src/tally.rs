//! How changes that are numbered within their keys arrived: in order, late or repeated; and which
//! expected ones are missing. The caller says which ones are expected.

use std::borrow::Borrow;
use std::collections::HashMap;
use std::hash::Hash;
use std::iter;
use std::ops::RangeInclusive;

/// How a change arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrival {
    /// For the first time, and none of its key with a greater number had arrived.
    InOrder,
    /// For the first time, after one of its key with a greater number.
    Late,
    /// It had arrived before.
    Repeated,
}

/// The changes of each key that have arrived, by their numbers.
#[derive(Clone, Debug)]
pub struct Tally<K> {
    /// In ascending order.
    arrived: HashMap<K, Vec<i64>>,
}

impl<K> Default for Tally<K> {
    fn default() -> Self {
        Self {
            arrived: HashMap::new(),
        }
    }
}

impl<K: Eq + Hash> Tally<K> {
    /// The change of a key with this number arrives.
    pub fn arrives(&mut self, key: K, number: i64) -> Arrival {
        let arrived = self.arrived.entry(key).or_default();
        let Err(place) = arrived.binary_search(&number) else {
            return Arrival::Repeated;
        };
        let in_order = place == arrived.len();
        arrived.insert(place, number);
        if in_order {
            Arrival::InOrder
        } else {
            Arrival::Late
        }
    }

    /// Whether the change of a key with this number has arrived.
    pub fn has<Q>(&self, key: &Q, number: i64) -> bool
    where
        K: Borrow<Q>,
        Q: Eq + Hash + ?Sized,
    {
        self.of(key).binary_search(&number).is_ok()
    }

    /// The greatest number that has arrived of a key.
    pub fn furthest<Q>(&self, key: &Q) -> Option<i64>
    where
        K: Borrow<Q>,
        Q: Eq + Hash + ?Sized,
    {
        self.of(key).last().copied()
    }

    /// Which of the changes that are expected of keys have not arrived: those of each key in
    /// ascending order, and one key after the other.
    pub fn missing<'a, Q>(
        &self,
        expected: impl IntoIterator<Item = (&'a Q, RangeInclusive<i64>)>,
    ) -> impl Iterator<Item = (&'a Q, i64)>
    where
        K: Borrow<Q>,
        Q: Eq + Hash + ?Sized + 'a,
    {
        expected.into_iter().flat_map(|(key, numbers)| {
            let arrived = self.of(key);
            let before = arrived.partition_point(|number| number < numbers.start());
            let mut arrived = arrived.iter().skip(before).peekable();
            let missing = numbers.filter(move |number| arrived.next_if_eq(&number).is_none());
            iter::repeat(key).zip(missing)
        })
    }

    fn of<Q>(&self, key: &Q) -> &[i64]
    where
        K: Borrow<Q>,
        Q: Eq + Hash + ?Sized,
    {
        self.arrived.get(key).map_or(&[], Vec::as_slice)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use proptest::prelude::*;

    use super::*;

    fn told(numbers: &[i64]) -> (Tally<String>, Vec<Arrival>) {
        let mut tally = Tally::default();
        let arrivals = numbers.iter().map(|n| tally.arrives("a".to_owned(), *n));
        let arrivals = arrivals.collect();
        (tally, arrivals)
    }

    #[test]
    fn each_arrival_is_told_by_what_had_arrived_before() {
        use Arrival::{InOrder, Late, Repeated};
        let (tally, arrivals) = told(&[1, 2, 5, 5, 3, 2, 3, 6]);
        assert_eq!(
            arrivals,
            [
                InOrder, InOrder, InOrder, Repeated, Late, Repeated, Repeated, InOrder
            ]
        );
        assert_eq!(tally.furthest("a"), Some(6));
        assert!(tally.has("a", 3) && !tally.has("a", 4) && !tally.has("b", 3));
    }

    #[test]
    fn keys_have_nothing_to_do_with_one_another() {
        let mut tally = Tally::default();
        assert_eq!(tally.arrives(1, 9), Arrival::InOrder);
        assert_eq!(tally.arrives(2, 8), Arrival::InOrder);
        assert_eq!(tally.furthest(&2), Some(8));
        assert_eq!(tally.furthest(&3), None);
    }

    #[test]
    fn what_is_missing_is_what_was_expected_and_did_not_arrive() {
        let (tally, _) = told(&[0, 2, 4, 7]);
        let missing = |first, last| -> Vec<_> {
            let expected = [("a", first..=last), ("b", 1..=2)];
            tally.missing(expected).collect()
        };
        let of_b = [("b", 1), ("b", 2)];
        assert_eq!(
            missing(1, 5),
            [&[("a", 1), ("a", 3), ("a", 5)], &of_b[..]].concat()
        );
        assert_eq!(missing(4, 4), of_b);
        assert_eq!(missing(1, 0), of_b, "nothing is expected of the first");
    }

    proptest! {
        #[test]
        fn a_tally_knows_what_sets_know(
            arrivals in prop::collection::vec((0_u8..4, -3_i64..12), 0..60),
            expected in prop::collection::btree_map(0_u8..5, (-4_i64..10, -4_i64..14), 0..5),
        ) {
            let mut tally = Tally::default();
            let mut sets: BTreeMap<u8, BTreeSet<i64>> = BTreeMap::new();
            for (key, number) in arrivals {
                let set = sets.entry(key).or_default();
                let late = set.last().is_some_and(|last| *last > number);
                let arrival = match (set.insert(number), late) {
                    (false, _) => Arrival::Repeated,
                    (true, true) => Arrival::Late,
                    (true, false) => Arrival::InOrder,
                };
                prop_assert_eq!(tally.arrives(key, number), arrival);
                prop_assert_eq!(tally.furthest(&key), set.last().copied());
            }
            let none = BTreeSet::new();
            let mut missing = Vec::new();
            for (key, (first, last)) in &expected {
                let set = sets.get(key).unwrap_or(&none);
                let all = (*first..=*last).filter(|number| !set.contains(number));
                missing.extend(all.map(|number| (key, number)));
                for number in *first..=*last {
                    prop_assert_eq!(tally.has(key, number), set.contains(&number));
                }
            }
            let expected = expected.iter().map(|(key, (first, last))| (key, *first..=*last));
            prop_assert_eq!(tally.missing(expected).collect::<Vec<_>>(), missing);
        }
    }
}
