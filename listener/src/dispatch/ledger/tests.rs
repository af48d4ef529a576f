//! A ledger that is saved and started again at any moment.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::collections::BTreeSet;
use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::source::position::Mark;

const WINDOW: u64 = 1;

fn mark(text: &str, ids: i64) -> Arc<Mark> {
    Arc::new(Mark {
        floor: ids,
        snapshot: text.parse().unwrap(),
        ceiling: ids,
    })
}

fn window() -> Window {
    Window {
        from: mark("5:5:", 0),
        to: mark("900:900:", 900),
    }
}

fn start() -> Progress {
    Progress {
        position: Position::at(mark("5:5:", 0)),
        beyond: Beyond::default(),
    }
}

fn actions(count: usize) -> Vec<Action> {
    (0..count)
        .map(|n| (Arc::from("ns/observer"), Arc::from(format!("action-{n}"))))
        .collect()
}

fn ledger(progress: Progress) -> Ledger {
    let mut ledger = Ledger::new(vec![progress]);
    ledger.open(0, WINDOW, &window());
    ledger
}

fn enter(ledger: &mut Ledger, id: i64, count: usize) -> Vec<usize> {
    ledger.enter((0, WINDOW, id), DateTime::UNIX_EPOCH, &actions(count))
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
    assert_eq!(progress.beyond.finished, BTreeSet::from([5]));
    done(&mut ledger, 3, 0);
    let progress = saved(&mut ledger);
    assert_eq!(progress.position, Position::within(&window(), 7));
    assert_eq!(progress.beyond, Beyond::default());
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
    assert_eq!(ledger.oldest(), None);
    let at = |seconds| DateTime::from_timestamp(seconds, 0).unwrap();
    ledger.enter((0, WINDOW, 1), at(10), &actions(1));
    ledger.enter((0, WINDOW, 2), at(20), &actions(1));
    done(&mut ledger, 1, 0);
    assert_eq!(ledger.oldest(), Some(at(20)));
    assert_eq!((ledger.pending(), ledger.entries()), (1, 2));
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
