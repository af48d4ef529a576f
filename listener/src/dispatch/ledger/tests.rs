//! A ledger that is saved and started again at any moment.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::collections::BTreeSet;
use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::capture::position::LogBound;

const WINDOW: u64 = 1;

fn bound(text: &str, ids: i64) -> Arc<LogBound> {
    Arc::new(LogBound {
        low_id: ids,
        snapshot: text.parse().unwrap(),
        high_id: ids,
    })
}

fn window() -> Window {
    Window {
        from: bound("5:5:", 0),
        to: bound("900:900:", 900),
    }
}

fn start() -> Progress {
    Progress {
        position: Position::at(bound("5:5:", 0)),
        completed_ahead: CompletedAhead::default(),
        pre_reshard: Arc::default(),
    }
}

/// An event of key `hash`, committed at second `since`.
fn event(hash: u32, since: i64) -> Mark {
    Mark {
        hash,
        xid: 10,
        since: DateTime::from_timestamp(since, 0).unwrap(),
    }
}

fn actions(count: usize) -> Vec<ActionName> {
    (0..count)
        .map(|n| (Arc::from("ns/observer"), Arc::from(format!("action-{n}"))))
        .collect()
}

fn ledger(progress: Progress) -> Ledger {
    let mut ledger = Ledger::default();
    ledger.add(0, progress);
    ledger.open(0, WINDOW, &window());
    ledger
}

fn enter(ledger: &mut Ledger, id: i64, count: usize) -> Vec<usize> {
    ledger.enter((0, WINDOW, id), event(0, 0), &actions(count))
}

fn done(ledger: &mut Ledger, id: i64, action: usize) {
    ledger.done((0, WINDOW, id), actions(action + 1)[action].clone());
}

fn saved(ledger: &mut Ledger) -> Progress {
    ledger.take().pop().unwrap().1
}

#[test]
fn a_position_stops_before_the_first_event_that_is_not_over() {
    let mut ledger = ledger(start());
    for id in [3, 5, 8] {
        assert_eq!(enter(&mut ledger, id, 1), [0]);
    }
    done(&mut ledger, 5, 0);
    let progress = saved(&mut ledger);
    assert_eq!(progress.position, Position::within(&window(), 2));
    assert_eq!(progress.completed_ahead.completed, BTreeSet::from([5]));
    done(&mut ledger, 3, 0);
    let progress = saved(&mut ledger);
    assert_eq!(progress.position, Position::within(&window(), 7));
    assert_eq!(progress.completed_ahead, CompletedAhead::default());
}

#[test]
fn events_that_call_for_nothing_are_passed() {
    let mut ledger = ledger(start());
    enter(&mut ledger, 3, 0);
    assert_eq!(saved(&mut ledger).position, Position::within(&window(), 3));
    assert!(
        ledger.take().is_empty(),
        "what has not moved is not saved again"
    );
    ledger.reach(0, Position::at(window().to), true);
    assert_eq!(saved(&mut ledger).position, Position::at(window().to));
}

#[test]
fn an_event_half_done_is_finished_after_a_restart() {
    let mut first = ledger(start());
    enter(&mut first, 3, 3);
    done(&mut first, 3, 1);
    let mut second = ledger(saved(&mut first));
    assert_eq!(enter(&mut second, 3, 3), [0, 2]);
}

#[test]
fn what_was_done_stays_known_until_it_is_read_again() {
    let mut first = ledger(start());
    enter(&mut first, 3, 1);
    enter(&mut first, 5, 1);
    done(&mut first, 5, 0);
    let mut second = ledger(saved(&mut first));
    enter(&mut second, 3, 1);
    let mut third = ledger(saved(&mut second));
    assert_eq!(enter(&mut third, 3, 1), [0]);
    assert_eq!(enter(&mut third, 5, 1), [] as [usize; 0]);
}

#[test]
fn the_oldest_is_the_first_that_is_not_over() {
    let mut ledger = ledger(start());
    let oldest = |ledger: &Ledger| ledger.oldest().collect::<Vec<_>>();
    assert_eq!(oldest(&ledger), [(0, None)]);
    ledger.enter((0, WINDOW, 1), event(0, 10), &actions(1));
    ledger.enter((0, WINDOW, 2), event(0, 20), &actions(1));
    done(&mut ledger, 1, 0);
    assert_eq!(oldest(&ledger), [(0, Some(event(0, 20).since))]);
    assert_eq!((ledger.pending(), ledger.entries()), (1, 2));
    ledger.remove(0);
    assert_eq!((ledger.pending(), ledger.entries()), (0, 0));
}

#[test]
fn only_what_gets_over_brings_a_shard_on() {
    let mut ledger = ledger(start());
    let progress = |ledger: &Ledger| ledger.progress().next().unwrap();
    enter(&mut ledger, 1, 0);
    ledger.reach(0, Position::within(&window(), 1), true);
    let (_, idle, pending) = progress(&ledger);
    assert!(idle > 0 && !pending, "nothing is in the way");
    enter(&mut ledger, 2, 1);
    let (_, before, pending) = progress(&ledger);
    assert!(pending);
    for id in 3..9 {
        enter(&mut ledger, id, usize::from(id % 2 == 0));
    }
    ledger.reach(0, Position::within(&window(), 9), true);
    assert_eq!(progress(&ledger), (0, before, true), "reading on does not");
    assert_eq!(ledger.first_pending(0), Some((0, WINDOW, 2)));
    done(&mut ledger, 4, 0);
    assert!(progress(&ledger).1 > before);
}

/// Three shards became one: it begins with the last of them, and passes over what the others did.
#[test]
fn what_other_shards_had_done_is_passed_over() {
    let pre_reshard =
        |shard: u16, last_id: i64, completed: &[i64], partial: &[i64]| PreReshardProgress {
            shard_count: 3,
            shard,
            position: Position::within(&window(), last_id),
            completed_ahead: CompletedAhead {
                completed: completed.iter().copied().collect(),
                partial: partial.iter().map(|id| (*id, actions(1))).collect(),
            },
            until: window().to.snapshot.clone(),
        };
    let mut ledger = ledger(Progress {
        pre_reshard: Arc::new([pre_reshard(0, 2, &[], &[]), pre_reshard(1, 6, &[8], &[9])]),
        ..start()
    });
    let mut enter = |id, hash| ledger.enter((0, WINDOW, id), event(hash, 0), &actions(2));
    let nothing: [usize; 0] = [];
    assert_eq!(enter(2, 0), nothing);
    assert_eq!(enter(3, 0), [0, 1], "the first was not as far");
    assert_eq!(enter(4, 1), nothing);
    assert_eq!(enter(5, 2), [0, 1], "nothing is known of the third");
    assert_eq!(enter(6, 1), nothing);
    assert_eq!(enter(7, 1), [0, 1]);
    assert_eq!(enter(8, 1), nothing);
    assert_eq!(enter(9, 1), [1]);
    assert_eq!(
        saved(&mut ledger).pre_reshard.len(),
        2,
        "it may be read once more"
    );
    for (id, action) in [(3, 0), (3, 1), (5, 0), (5, 1), (7, 0), (7, 1), (9, 1)] {
        done(&mut ledger, id, action);
    }
    ledger.reach(0, Position::at(window().to), true);
    let progress = saved(&mut ledger);
    assert_eq!(progress.position, Position::at(window().to));
    assert!(progress.pre_reshard.is_empty(), "all of it is behind");
}

/// The owner of another shard had read on into later windows than that in which it stood.
#[test]
fn what_other_shards_had_done_in_later_windows_is_passed_over() {
    let later = Window {
        from: window().to,
        to: bound("999:999:", 999),
    };
    let other = PreReshardProgress {
        shard_count: 3,
        shard: 1,
        position: Position::within(&window(), 6),
        completed_ahead: CompletedAhead {
            completed: BTreeSet::from([901]),
            partial: BTreeMap::from([(902, actions(1))]),
        },
        until: later.to.snapshot.clone(),
    };
    let mut ledger = ledger(Progress {
        pre_reshard: Arc::new([other]),
        ..start()
    });
    let nothing: [usize; 0] = [];
    let event = |xid| Mark { xid, ..event(1, 0) };
    assert_eq!(
        ledger.enter((0, WINDOW, 7), event(10), &actions(1)),
        [0],
        "it was not so far"
    );
    done(&mut ledger, 7, 0);
    ledger.reach(0, Position::at(window().to), true);
    let between = saved(&mut ledger);
    assert_eq!(between.position, Position::at(window().to));
    ledger.open(0, WINDOW + 1, &later);
    let mut enter = |id| ledger.enter((0, WINDOW + 1, id), event(950), &actions(2));
    assert_eq!(enter(901), nothing);
    assert_eq!(enter(902), [1]);
    ledger.done((0, WINDOW + 1, 902), actions(2)[1].clone());
    ledger.reach(0, Position::at(later.to), true);
    assert!(
        saved(&mut ledger).pre_reshard.is_empty(),
        "all of it is behind"
    );
}

proptest! {
    /// Whenever it is saved and whoever goes on from there, exactly what was not done is done.
    #[test]
    fn a_restart_repeats_and_omits_nothing_that_was_saved(
        counts in prop::collection::vec(0usize..4, 1..24),
        ends in prop::collection::vec(any::<prop::sample::Index>(), 0..60),
        restarts in prop::collection::vec(0usize..60, 0..4),
    ) {
        let mut ledger = ledger(start());
        let mut open: Vec<(i64, usize)> = Vec::new();
        let mut entered = 0;
        let mut over = BTreeSet::new();
        for (step, end) in ends.iter().enumerate() {
            if let Some(count) = counts.get(entered) {
                let id = i64::try_from(entered).unwrap() + 1;
                open.extend(enter(&mut ledger, id, *count).into_iter().map(|n| (id, n)));
                entered += 1;
            }
            if !open.is_empty() {
                let (id, action) = open.swap_remove(end.index(open.len()));
                done(&mut ledger, id, action);
                prop_assert!(over.insert((id, action)), "done twice");
            }
            if restarts.contains(&step) {
                let progress = ledger.take().pop().map(|(_, progress)| progress);
                let Some(progress) = progress else { continue };
                let behind = progress.position.last_id;
                for id in 1..=behind {
                    let count = counts[usize::try_from(id).unwrap() - 1];
                    prop_assert!((0..count).all(|n| over.contains(&(id, n))), "passed event {} too early", id);
                }
                entered = usize::try_from(behind).unwrap();
                open.clear();
                ledger = super::tests::ledger(progress);
            }
        }
        while let Some(count) = counts.get(entered) {
            let id = i64::try_from(entered).unwrap() + 1;
            open.extend(enter(&mut ledger, id, *count).into_iter().map(|n| (id, n)));
            entered += 1;
        }
        for (id, action) in open {
            done(&mut ledger, id, action);
            prop_assert!(over.insert((id, action)), "done twice");
        }
        prop_assert_eq!(over.len(), counts.iter().sum::<usize>());
        prop_assert_eq!(ledger.pending(), 0);
    }
}
