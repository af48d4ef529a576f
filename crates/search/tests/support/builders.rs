//! Documents.

use chrono::{DateTime, TimeDelta, Utc};
use crds::config::Operation;
use observer_search::{DeliveryAttempt, DeliveryEntry, DeliveryState, Document, ObserverEntry};
use serde_json::value::RawValue;

/// When the first event of a test occurred.
pub(crate) fn epoch() -> DateTime<Utc> {
    "2026-03-01T00:00:00Z".parse().unwrap()
}

/// Document of an inserted order, whose event occurred so many seconds later.
pub(crate) fn document(listener: &str, number: i64) -> Document {
    Document {
        id: format!("log-{number}"),
        listener: listener.to_owned(),
        log_id: number,
        entity: "public.orders".to_owned(),
        operation: Operation::Insert,
        key: Some(number.to_string()),
        tenant: None,
        occurred_at: epoch() + TimeDelta::seconds(number),
        trace_id: None,
        old: None,
        new: None,
        changed: Vec::new(),
        observers: Vec::new(),
    }
}

/// A document with a row.
pub(crate) fn with_new(listener: &str, number: i64, new: &str) -> Document {
    Document {
        new: Some(raw(new)),
        ..document(listener, number)
    }
}

/// JSON as it is written.
pub(crate) fn raw(json: &str) -> Box<RawValue> {
    RawValue::from_string(json.to_owned()).unwrap()
}

/// A delivery with that many attempts.
pub(crate) fn delivery(action: &str, state: DeliveryState, attempts: u32) -> DeliveryEntry {
    let attempt = |number: u32| {
        let fails = number < attempts || state != DeliveryState::Delivered;
        DeliveryAttempt {
            at: epoch() + TimeDelta::seconds(i64::from(number)),
            took_ms: Some(u64::from(number)),
            status: Some(if fails { 503 } else { 200 }),
            kind: fails.then(|| "Status".to_owned()),
            error: fails.then(|| "the receiver is not well".to_owned()),
        }
    };
    DeliveryEntry {
        action: action.to_owned(),
        delivery: format!("msg.{action}"),
        replay: None,
        state,
        attempts,
        history: (1..=attempts).map(attempt).collect(),
        due_at: None,
        job: None,
        dead_letter: None,
        details_lost: false,
    }
}

/// An observer that matched.
pub(crate) fn matched(observer: &str, deliveries: Vec<DeliveryEntry>) -> ObserverEntry {
    ObserverEntry {
        observer: observer.to_owned(),
        not_matched: None,
        deliveries,
    }
}

/// An observer that did not.
pub(crate) fn not_matched(observer: &str, reason: &str) -> ObserverEntry {
    ObserverEntry {
        observer: observer.to_owned(),
        not_matched: Some(reason.to_owned()),
        deliveries: Vec::new(),
    }
}

/// A document as JSON, to be compared.
pub(crate) fn json(document: &Document) -> String {
    serde_json::to_string(document).unwrap()
}
