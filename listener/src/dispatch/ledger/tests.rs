//! A ledger that is saved and restarted at any moment.

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

/// An event of key `hash`, committed at second `occurred_at`.
fn event(hash: u32, occurred_at: i64) -> EventOrigin {
    EventOrigin {
        hash,
        xid: 10,
        occurred_at: DateTime::from_timestamp(occurred_at, 0).unwrap(),
    }
}

fn actions(count: usize) -> Vec<ActionName> {
    (0..count)
        .map(|n| ActionName::new("ns/observer", format!("action-{n}")))
        .collect()
}

fn ledger(progress: Progress) -> Ledger {
    let mut ledger = Ledger::default();
    ledger.add_shard(0, progress);
    ledger.open_window(0, WINDOW, &window());
    ledger
}

fn register(ledger: &mut Ledger, id: i64, count: usize) -> Vec<usize> {
    ledger.register((0, WINDOW, id), event(0, 0), &actions(count))
}

fn complete(ledger: &mut Ledger, id: i64, action: usize) {
    ledger.complete((0, WINDOW, id), actions(action + 1)[action].clone());
}

fn take_progress(ledger: &mut Ledger) -> Progress {
    ledger.take_progress().pop().unwrap().1
}

#[test]
fn position_stops_before_first_pending_event() {
    let mut ledger = ledger(start());
    for id in [3, 5, 8] {
        assert_eq!(register(&mut ledger, id, 1), [0]);
    }
    complete(&mut ledger, 5, 0);
    let progress = take_progress(&mut ledger);
    assert_eq!(progress.position, Position::within(&window(), 2));
    assert_eq!(progress.completed_ahead.completed, BTreeSet::from([5]));
    complete(&mut ledger, 3, 0);
    let progress = take_progress(&mut ledger);
    assert_eq!(progress.position, Position::within(&window(), 7));
    assert_eq!(progress.completed_ahead, CompletedAhead::default());
}

#[test]
fn events_without_actions_are_passed() {
    let mut ledger = ledger(start());
    register(&mut ledger, 3, 0);
    assert_eq!(
        take_progress(&mut ledger).position,
        Position::within(&window(), 3)
    );
    assert!(
        ledger.take_progress().is_empty(),
        "what has not moved is not saved again"
    );
    ledger.advance(0, Position::at(window().to), true);
    assert_eq!(
        take_progress(&mut ledger).position,
        Position::at(window().to)
    );
}

#[test]
fn partial_event_is_completed_after_restart() {
    let mut first = ledger(start());
    register(&mut first, 3, 3);
    complete(&mut first, 3, 1);
    let mut second = ledger(take_progress(&mut first));
    assert_eq!(register(&mut second, 3, 3), [0, 2]);
}

#[test]
fn completed_events_stay_known_until_read_again() {
    let mut first = ledger(start());
    register(&mut first, 3, 1);
    register(&mut first, 5, 1);
    complete(&mut first, 5, 0);
    let mut second = ledger(take_progress(&mut first));
    register(&mut second, 3, 1);
    let mut third = ledger(take_progress(&mut second));
    assert_eq!(register(&mut third, 3, 1), [0]);
    assert_eq!(register(&mut third, 5, 1), [] as [usize; 0]);
}

#[test]
fn oldest_pending_skips_completed_events() {
    let mut ledger = ledger(start());
    let oldest = |ledger: &Ledger| ledger.oldest_pending().collect::<Vec<_>>();
    assert_eq!(oldest(&ledger), [(0, None)]);
    ledger.register((0, WINDOW, 1), event(0, 10), &actions(1));
    ledger.register((0, WINDOW, 2), event(0, 20), &actions(1));
    complete(&mut ledger, 1, 0);
    assert_eq!(oldest(&ledger), [(0, Some(event(0, 20).occurred_at))]);
    assert_eq!((ledger.pending(), ledger.tracked_events()), (1, 2));
    ledger.remove_shard(0);
    assert_eq!((ledger.pending(), ledger.tracked_events()), (0, 0));
}

#[test]
fn only_completions_count_as_progress() {
    let mut ledger = ledger(start());
    let progress = |ledger: &Ledger| ledger.progress().next().unwrap();
    register(&mut ledger, 1, 0);
    ledger.advance(0, Position::within(&window(), 1), true);
    let (_, idle, pending) = progress(&ledger);
    assert!(idle > 0 && !pending, "nothing is in the way");
    register(&mut ledger, 2, 1);
    let (_, before, pending) = progress(&ledger);
    assert!(pending);
    for id in 3..9 {
        register(&mut ledger, id, usize::from(id % 2 == 0));
    }
    ledger.advance(0, Position::within(&window(), 9), true);
    assert_eq!(progress(&ledger), (0, before, true), "reading on does not");
    assert_eq!(ledger.first_pending(0), Some((0, WINDOW, 2)));
    complete(&mut ledger, 4, 0);
    assert!(progress(&ledger).1 > before);
}

/// Three shards became one: it starts at the earliest position, and skips what the others completed.
#[test]
fn events_completed_before_reshard_are_skipped() {
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
    let mut register = |id, hash| ledger.register((0, WINDOW, id), event(hash, 0), &actions(2));
    let nothing: [usize; 0] = [];
    assert_eq!(register(2, 0), nothing);
    assert_eq!(register(3, 0), [0, 1], "the first was not as far");
    assert_eq!(register(4, 1), nothing);
    assert_eq!(register(5, 2), [0, 1], "nothing is known of the third");
    assert_eq!(register(6, 1), nothing);
    assert_eq!(register(7, 1), [0, 1]);
    assert_eq!(register(8, 1), nothing);
    assert_eq!(register(9, 1), [1]);
    assert_eq!(
        take_progress(&mut ledger).pre_reshard.len(),
        2,
        "it may be read once more"
    );
    for (id, action) in [(3, 0), (3, 1), (5, 0), (5, 1), (7, 0), (7, 1), (9, 1)] {
        complete(&mut ledger, id, action);
    }
    ledger.advance(0, Position::at(window().to), true);
    let progress = take_progress(&mut ledger);
    assert_eq!(progress.position, Position::at(window().to));
    assert!(
        progress.pre_reshard.is_empty(),
        "the position is past all of it"
    );
}

/// The owner of another shard had read on into later windows than that in which it stood.
#[test]
fn later_windows_completed_before_reshard_are_skipped() {
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
    let event = |xid| EventOrigin { xid, ..event(1, 0) };
    assert_eq!(
        ledger.register((0, WINDOW, 7), event(10), &actions(1)),
        [0],
        "it was not so far"
    );
    complete(&mut ledger, 7, 0);
    ledger.advance(0, Position::at(window().to), true);
    let between = take_progress(&mut ledger);
    assert_eq!(between.position, Position::at(window().to));
    ledger.open_window(0, WINDOW + 1, &later);
    let mut register = |id| ledger.register((0, WINDOW + 1, id), event(950), &actions(2));
    assert_eq!(register(901), nothing);
    assert_eq!(register(902), [1]);
    ledger.complete((0, WINDOW + 1, 902), actions(2)[1].clone());
    ledger.advance(0, Position::at(later.to), true);
    assert!(
        take_progress(&mut ledger).pre_reshard.is_empty(),
        "the position is past all of it"
    );
}

proptest! {
    /// Whenever it is saved and restarted: exactly what was not completed is delivered.
    #[test]
    fn restart_repeats_and_omits_nothing_saved(
        counts in prop::collection::vec(0usize..4, 1..24),
        ends in prop::collection::vec(any::<prop::sample::Index>(), 0..60),
        restarts in prop::collection::vec(0usize..60, 0..4),
    ) {
        let mut ledger = ledger(start());
        let mut open: Vec<(i64, usize)> = Vec::new();
        let mut entered = 0;
        let mut completed = BTreeSet::new();
        for (step, end) in ends.iter().enumerate() {
            if let Some(count) = counts.get(entered) {
                let id = i64::try_from(entered).unwrap() + 1;
                open.extend(register(&mut ledger, id, *count).into_iter().map(|n| (id, n)));
                entered += 1;
            }
            if !open.is_empty() {
                let (id, action) = open.swap_remove(end.index(open.len()));
                complete(&mut ledger, id, action);
                prop_assert!(completed.insert((id, action)), "completed twice");
            }
            if restarts.contains(&step) {
                let progress = ledger.take_progress().pop().map(|(_, progress)| progress);
                let Some(progress) = progress else { continue };
                let behind = progress.position.last_id;
                for id in 1..=behind {
                    let count = counts[usize::try_from(id).unwrap() - 1];
                    prop_assert!((0..count).all(|n| completed.contains(&(id, n))), "passed event {} too early", id);
                }
                entered = usize::try_from(behind).unwrap();
                open.clear();
                ledger = super::tests::ledger(progress);
            }
        }
        while let Some(count) = counts.get(entered) {
            let id = i64::try_from(entered).unwrap() + 1;
            open.extend(register(&mut ledger, id, *count).into_iter().map(|n| (id, n)));
            entered += 1;
        }
        for (id, action) in open {
            complete(&mut ledger, id, action);
            prop_assert!(completed.insert((id, action)), "completed twice");
        }
        prop_assert_eq!(completed.len(), counts.iter().sum::<usize>());
        prop_assert_eq!(ledger.pending(), 0);
    }
}
