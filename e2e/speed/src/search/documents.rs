//! Documents of a shop's events, which are searched.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use crds::config::Operation;
use search::{DeliveryAttempt, DeliveryEntry, DeliveryState, Document, ObserverEntry};
use serde_json::value::RawValue;

use crate::search::target::LISTENER;

/// Tables.
pub(crate) const ENTITIES: u64 = 20;

/// Observers.
pub(crate) const OBSERVERS: u64 = 10;

/// Words of notes.
pub(crate) const WORDS: u64 = 5000;

/// States of rows, each of every fourth.
pub(crate) const STATES: [&str; 4] = ["new", "paid", "sent", "returned"];

/// Time over which the events are spread.
pub(crate) const SPAN: Duration = Duration::from_hours(30 * 24);

/// A number that looks random, and is the same each time.
fn mixed(number: u64) -> u64 {
    let mut mixed = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

/// The document with this number, of so many up to `now`.
pub(crate) fn document(number: u64, all: u64, now: DateTime<Utc>) -> anyhow::Result<Document> {
    let drawn = |of: u64, salt: u64| mixed(number.wrapping_mul(31).wrapping_add(salt)) % of;
    let span = u64::try_from(SPAN.as_micros())?;
    let back = span / all.max(1) * (all - number);
    let occurred_at = now - TimeDelta::microseconds(i64::try_from(back)?);
    let words: Vec<String> = (0..8)
        .map(|at| format!("word{}", drawn(WORDS, at)))
        .collect();
    let (total, key) = (drawn(100_000, 20), drawn(all.max(1), 21));
    let new = format!(
        r#"{{"id":{key},"status":"{}","total":{}.{:02},"customer":{},"note":"{}"}}"#,
        STATES[usize::try_from(drawn(4, 22))?],
        total / 100,
        total % 100,
        drawn(10_000, 23),
        words.join(" ")
    );
    let micros = occurred_at.timestamp_micros();
    Ok(Document {
        id: format!("speed-{number}-{micros:x}"),
        listener: LISTENER.to_owned(),
        log_id: i64::try_from(number)?,
        entity: format!("public.table{}", drawn(ENTITIES, 24)),
        operation: [Operation::Insert, Operation::Update, Operation::Delete]
            [usize::try_from(drawn(3, 25))?],
        key: Some(key.to_string()),
        tenant: Some(format!("tenant{}", drawn(100, 26))),
        occurred_at,
        trace_id: None,
        old: None,
        new: Some(RawValue::from_string(new)?),
        changed: vec!["status".to_owned()],
        observers: vec![observer(
            number,
            drawn(OBSERVERS, 27),
            drawn(100, 28),
            occurred_at,
        )],
    })
}

fn observer(number: u64, observer: u64, luck: u64, at: DateTime<Utc>) -> ObserverEntry {
    let observer = format!("shop/observer{observer}");
    if luck < 20 {
        return ObserverEntry {
            observer,
            not_matched: Some("`new.total > 500` is false".to_owned()),
            deliveries: Vec::new(),
        };
    }
    let failed = luck < 22;
    let attempt = DeliveryAttempt {
        at,
        took_ms: Some(luck),
        status: Some(if failed { 503 } else { 200 }),
        kind: failed.then(|| "status".to_owned()),
        error: failed.then(|| "hooks.example.com answered 503".to_owned()),
    };
    ObserverEntry {
        observer,
        not_matched: None,
        deliveries: vec![DeliveryEntry {
            action: "notify".to_owned(),
            delivery: format!("msg_{number:020}"),
            replay: None,
            state: if failed {
                DeliveryState::DeadLetter
            } else {
                DeliveryState::Delivered
            },
            attempts: 1,
            history: vec![attempt],
            due_at: None,
            job: None,
            dead_letter: failed.then_some(1),
            details_lost: false,
        }],
    }
}
