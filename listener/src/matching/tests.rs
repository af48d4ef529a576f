#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod ruleset;

use std::sync::Arc;

use chrono::DateTime;
use crds::config::Operation;
use serde_json::value::RawValue;

use super::{Condition, EventView};
use crate::delivery::event::Event;

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
        trace: None,
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

#[test]
fn conditions_know_every_operation() {
    assert_eq!(cel::OPERATIONS, Operation::ALL.map(Operation::as_str));
}

#[test]
fn changed_agrees_with_the_delivered_list() {
    let event = updated(r#"{"a":1.0,"b":2,"c":3}"#, r#"{"a":1.00,"b":2,"d":4}"#);
    for name in ["a", "b", "c", "d"] {
        let listed = event.changed().iter().any(|changed| changed == name);
        let condition = Condition::compile(&format!("changed('{name}')")).unwrap();
        let changed = condition.evaluate(&EventView::new(&event));
        assert_eq!(changed, Ok(listed), "{name}");
    }
}
