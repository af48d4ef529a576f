#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test may panic"
)]

mod bounds;
mod conditions;
mod ruleset;

use std::sync::Arc;

use chrono::DateTime;
use crds::config::Operation;
use serde_json::value::RawValue;

use super::{Condition, EventView};
use crate::delivery::event::Event;
use crate::delivery::failure::{Failure, FailureKind};

/// An event of `public.orders` with these images.
fn event(operation: Operation, old: Option<&str>, new: Option<&str>) -> Event {
    let image = |text: &str| RawValue::from_string(text.to_owned()).unwrap();
    Event {
        log_id: 1,
        id: "log-1".to_owned(),
        hash: 7,
        entity: Arc::from("public.orders"),
        operation,
        key: Some("42".to_owned()),
        tenant: Some("acme".to_owned()),
        occurred_at: DateTime::UNIX_EPOCH,
        old: old.map(image),
        new: new.map(image),
    }
}

fn inserted(new: &str) -> Event {
    event(Operation::Insert, None, Some(new))
}

fn updated(old: &str, new: &str) -> Event {
    event(Operation::Update, Some(old), Some(new))
}

fn deleted(old: &str) -> Event {
    event(Operation::Delete, Some(old), None)
}

/// What a condition says to an event.
fn evaluate(condition: &str, event: &Event) -> Result<bool, Failure> {
    let condition = Condition::compile(condition).unwrap_or_else(|e| panic!("{condition}: {e}"));
    condition.evaluate(&EventView::new(event))
}

/// Why a condition fails on an event, in words.
fn failure(condition: &str, event: &Event) -> String {
    let failure = evaluate(condition, event).expect_err(condition);
    assert_eq!(failure.kind, FailureKind::Condition, "{failure:?}");
    failure.message
}

/// Why a condition is refused, in words.
fn refusal(condition: &str) -> String {
    Condition::compile(condition)
        .expect_err(condition)
        .to_string()
}

/// Asserts that each condition says what stands beside it.
fn assert_all(event: &Event, expected: &[(&str, bool)]) {
    for (condition, expected) in expected {
        assert_eq!(evaluate(condition, event), Ok(*expected), "{condition}");
    }
}
