//! What is left out where there is too little room.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use super::packed::samples::{SMALL, noise};
use super::*;
use crate::loader::load_bundle;

fn listener() -> ObserverListener {
    serde_json::from_value(json!({
        "apiVersion": "observers.fraiseql.dev/v1alpha1",
        "kind": "ObserverListener",
        "metadata": {"name": "shop", "namespace": "shop"},
        "spec": {"database": {"url": {"value": "postgres://db/shop"}}},
    }))
    .unwrap()
}

/// An observer with such a body, created at this second.
fn observer(name: &str, body: &str, second: u32) -> Observer {
    let time = format!("2026-01-01T00:{:02}:{:02}Z", second / 60, second % 60);
    serde_json::from_value(json!({
        "apiVersion": "observers.fraiseql.dev/v1alpha1",
        "kind": "Observer",
        "metadata": {"name": name, "namespace": "shop", "creationTimestamp": time},
        "spec": {
            "events": {"entity": "public.orders"},
            "actions": [{"name": "send", "webhook": {
                "url": {"value": "https://hooks.example.com/a"}, "body": body,
            }}],
        },
    }))
    .unwrap()
}

fn made(observers: &[Observer]) -> CompiledBundle {
    let given = Given {
        namespaces: &Namespaces::new(),
        secrets: &|_, _| None,
        limits: SMALL,
    };
    let all: Vec<&Observer> = observers.iter().collect();
    compile_within(&listener(), &all, given, &mut CheckedObservers::default()).unwrap()
}

/// Returns the names of the observers in the bundle, and of those left out.
fn names(made: &CompiledBundle) -> (Vec<&str>, Vec<&str>) {
    let of = |wanted: fn(&Inclusion) -> bool| {
        let found = made.observers.iter().filter(|one| wanted(&one.inclusion));
        found.map(|one| &*one.name).collect()
    };
    let left_out = |inclusion: &Inclusion| matches!(inclusion, Inclusion::LeftOut(why) if why.contains("older observers take all the room"));
    (of(|one| *one == Inclusion::Included), of(left_out))
}

#[test]
fn what_does_not_fit_leaves_out_the_newest_alone() {
    // By age they are in another order than by name.
    let mut all: Vec<_> = (0..50)
        .map(|n| observer(&format!("o{:03}", (n * 37) % 50), &noise(2000, n), n))
        .collect();
    let fits = made(&all);
    assert!(fits.packed.parts().len() > 4);
    assert_eq!(names(&fits).0.len(), 50);

    all.extend((50..150).map(|n| observer(&format!("o{n:03}"), &noise(2000, n), n)));
    all.reverse();
    let too_many = made(&all);
    let (kept, left_out) = names(&too_many);
    assert!((55..80).contains(&kept.len()), "{}", kept.len());
    let newest: Vec<String> = (kept.len()..150).map(|n| format!("o{n:03}")).collect();
    assert_eq!(left_out, newest);
    let pieces: Vec<&[u8]> = too_many.packed.parts().iter().map(Vec::as_slice).collect();
    assert_eq!(unpack(&pieces).unwrap(), too_many.text.reveal().as_bytes());
    let loaded = load_bundle(too_many.text.reveal()).unwrap().bundle;
    assert_eq!(loaded.observers.len(), kept.len());

    // Older ones that go make room for as many.
    let after = made(&all[..all.len() - 10]);
    assert!(names(&after).0.len() >= kept.len());
    assert!(names(&after).0.contains(&newest[5].as_str()));
}

#[test]
fn what_compresses_well_is_limited_by_its_length() {
    let all: Vec<_> = (0..60)
        .map(|n| observer(&format!("o{n}"), &"x".repeat(10_000), n))
        .collect();
    let made = made(&all);
    let (kept, _) = names(&made);
    assert!((35..40).contains(&kept.len()), "{} of 10 kB", kept.len());
}
