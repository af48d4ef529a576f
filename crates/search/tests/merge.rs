//! What merging documents keeps true.

use observer_search::{DeliveryEntry, DeliveryState, Document};
use proptest::prelude::*;

use crate::support::builders::{delivery, document, json, matched, not_matched};

fn deliveries() -> impl Strategy<Value = Vec<DeliveryEntry>> {
    let one = (
        "[a-c]",
        0..DeliveryState::ALL.len(),
        0..3_u32,
        prop::option::of("[x-y]"),
        any::<[bool; 3]>(),
    );
    let one = one.prop_map(|(action, state, attempts, replay, [lost, job, letter])| {
        let mut entry = delivery(&action, DeliveryState::ALL[state], attempts);
        entry.replay = replay;
        entry.details_lost = lost;
        if lost {
            entry.history.clear();
        }
        entry.job = job.then(|| "job".to_owned());
        entry.dead_letter = letter.then_some(7);
        entry
    });
    prop::collection::vec(one, 0..4)
}

fn piece() -> impl Strategy<Value = Document> {
    let entry = ("[a-c]", prop::option::of("(no|never)"), deliveries());
    prop::collection::btree_map("[a-c]", entry, 0..4).prop_map(|all| {
        let observers = all.into_iter().map(|(name, (_, reason, deliveries))| {
            if let Some(reason) = reason {
                return not_matched(&name, &reason);
            }
            let mut entry = matched(&name, deliveries);
            entry
                .deliveries
                .sort_by(|a, b| (&a.action, &a.replay).cmp(&(&b.action, &b.replay)));
            entry
                .deliveries
                .dedup_by(|a, b| (&a.action, &a.replay) == (&b.action, &b.replay));
            entry
        });
        let observers = observers.collect();
        let mut piece = Document {
            observers,
            ..document("merge", 1)
        };
        piece.sort();
        piece
    })
}

fn one_delivery(state: DeliveryState, attempts: u32) -> Document {
    Document {
        observers: vec![matched("shop/a", vec![delivery("post", state, attempts)])],
        ..document("merge", 1)
    }
}

/// State, attempts and attempts listed of the one delivery of both, merged.
fn state_of(a: &Document, b: &Document) -> (DeliveryState, u32, usize) {
    let both = merged(a, b);
    let entry = &both.observers[0].deliveries[0];
    (entry.state, entry.attempts, entry.history.len())
}

#[test]
fn end_found_elsewhere_is_not_undone_by_older_reports() {
    use DeliveryState::{Completed, DeadLetter, Delivered, Dropped, Retrying};
    let reported = one_delivery(Retrying, 7);
    for end in [Completed, Dropped, Delivered] {
        // Of all attempts it knows of none, or of fewer.
        let mut found = one_delivery(end, 2);
        found.observers[0].deliveries[0].details_lost = true;
        assert_eq!(state_of(&found, &reported), (end, 7, 7));
        found.observers[0].deliveries[0].history.clear();
        assert_eq!(state_of(&reported, &found), (end, 7, 7));
    }
    let told = one_delivery(Delivered, 8);
    assert_eq!(state_of(&reported, &told), (Delivered, 8, 8));
    // A dead letter may be redriven.
    let letter = one_delivery(DeadLetter, 3);
    assert_eq!(
        state_of(&letter, &one_delivery(Retrying, 4)),
        (Retrying, 4, 4)
    );
    assert_eq!(
        state_of(&letter, &one_delivery(Retrying, 3)),
        (DeadLetter, 3, 3)
    );
    assert_eq!(
        state_of(&letter, &one_delivery(Delivered, 4)),
        (Delivered, 4, 4)
    );
}

fn merged(a: &Document, b: &Document) -> Document {
    let mut merged = a.clone();
    let changed = merged.merge(b);
    assert_eq!(changed, json(&merged) != json(a));
    merged
}

proptest! {
    #[test]
    fn merge_is_commutative_associative_and_idempotent(a in piece(), b in piece(), c in piece()) {
        prop_assert_eq!(json(&merged(&a, &b)), json(&merged(&b, &a)));
        prop_assert_eq!(json(&merged(&merged(&a, &b), &c)), json(&merged(&a, &merged(&b, &c))));
        prop_assert_eq!(json(&merged(&a, &a)), json(&a));
    }

    #[test]
    fn merge_only_adds(a in piece(), b in piece()) {
        let both = merged(&a, &b);
        // What was merged once says nothing more.
        prop_assert_eq!(json(&merged(&both, &a)), json(&both));
        prop_assert_eq!(json(&merged(&both, &b)), json(&both));
        for entry in a.observers.iter().flat_map(|one| &one.deliveries) {
            let kept = both.observers.iter().flat_map(|one| &one.deliveries);
            let attempts = kept.filter(|one| one.action == entry.action && one.replay == entry.replay);
            prop_assert!(attempts.map(|one| one.attempts).max() >= Some(entry.attempts));
        }
    }
}
