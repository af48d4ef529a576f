//! Documents as they are composed.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use crds::config::{Operation, SearchBackend};

use super::*;
use crate::delivery::ActionName;

pub(in crate::history) fn config(redact: &[(Option<&str>, &str)]) -> SearchConfig {
    SearchConfig {
        backend: SearchBackend::Postgres,
        retention: Duration::from_hours(1),
        documents: DocumentContent::EventsAndOutcomes,
        redact: redact
            .iter()
            .map(|(entity, column)| RedactedColumn {
                entity: entity.map(str::to_owned),
                column: (*column).to_owned(),
            })
            .collect(),
        max_lag: Duration::from_hours(1),
    }
}

fn raw(text: &str) -> Box<RawValue> {
    RawValue::from_string(text.to_owned()).unwrap()
}

fn event(old: Option<&str>, new: Option<&str>) -> Event {
    Event {
        hash: 7,
        operation: Operation::Update,
        key: Some("1".to_owned()),
        old: old.map(raw),
        new: new.map(raw),
        trace: None,
        ..Event::fixture(42)
    }
}

fn report(state: DeliveryState, attempts: u32) -> DeliveryReport {
    DeliveryReport {
        event: Arc::new(event(None, None)),
        name: ActionName::new("default/big", "notify"),
        replay: None,
        state,
        attempts,
        failures: Vec::new(),
        success: None,
        due_at: None,
        job: None,
    }
}

#[test]
fn redacted_columns_are_removed_and_numbers_stay_as_they_are() {
    let image =
        r#"{"id":1, "total":12345678901234567890.1000,"s\u0065cret":"x" ,"note":{"secret":1e400}}"#;
    let composer = Composer::new("default/test", &config(&[(None, "secret")]));
    let document = composer.document(&event(Some(r#"{"id":1,"secret":"y"}"#), Some(image)));
    assert_eq!(
        document.new.unwrap().get(),
        r#"{"id":1,"total":12345678901234567890.1000,"note":{"secret":1e400}}"#
    );
    assert_eq!(document.old.unwrap().get(), r#"{"id":1}"#);
    assert!(
        document.changed.contains(&"secret".to_owned()),
        "that it changed is told"
    );
}

#[test]
fn columns_of_other_entities_stay() {
    let image = r#"{"id":1, "secret": "x"}"#;
    let of = |redact: &[(Option<&str>, &str)]| {
        let document = Composer::new("l", &config(redact)).document(&event(None, Some(image)));
        document.new.unwrap().get().to_owned()
    };
    assert_eq!(of(&[(Some("public.users"), "secret")]), image);
    assert_eq!(of(&[(Some("public.orders"), "secret")]), r#"{"id":1}"#);
    assert_eq!(of(&[]), image);
}

#[test]
fn what_cannot_be_read_is_left_out_where_something_is_redacted() {
    assert!(without_columns(&raw(r#"[{"secret":1}]"#), &["secret"]).is_some());
    assert!(without_columns(&raw(r#"{"\ud800":1,"secret":2}"#), &["secret"]).is_none());
}

#[test]
fn trace_id_is_read_from_its_fields() {
    let id = "4bf92f3577b34da6a3ce929d0e0e4736";
    let of = |image: &str| trace_id(&raw(image));
    assert_eq!(
        of(&format!(
            r#"{{"traceparent":"00-{id}-00f067aa0ba902b7-01"}}"#
        )),
        Some(id.to_owned())
    );
    assert_eq!(
        of(&format!(r#"{{"trace_id":"{}"}}"#, id.to_uppercase())),
        Some(id.to_owned())
    );
    assert_eq!(of(&format!(r#"{{"traceId":"{id}"}}"#)), Some(id.to_owned()));
    for none in [
        r#"{"traceparent":"00-x-y-01"}"#,
        r#"{"trace_id":12}"#,
        r#"{"trace_id":"00000000000000000000000000000000"}"#,
        r#"{"note":"trace"}"#,
        r#"["trace"]"#,
    ] {
        assert_eq!(of(none), None, "{none}");
    }
}

#[test]
fn reports_are_merged_whatever_their_order() {
    let composer = Composer::new("default/test", &config(&[]));
    let failure = Attempt {
        at: DateTime::UNIX_EPOCH,
        kind: "status".to_owned(),
        error: "503".to_owned(),
        status: Some(503),
        took_ms: Some(3),
    };
    let retrying = DeliveryReport {
        failures: vec![failure.clone()],
        job: Some("a-42.1".to_owned()),
        due_at: Some(Utc::now()),
        ..report(DeliveryState::Retrying, 1)
    };
    let delivered = DeliveryReport {
        failures: vec![failure],
        success: Some(Success {
            at: DateTime::UNIX_EPOCH,
            took: Duration::from_millis(7),
            unsent: None,
        }),
        ..report(DeliveryState::Delivered, 2)
    };
    let mut document = composer.document(&retrying.event);
    apply(&mut document, &retrying);
    assert!(document.is_unfinished());
    apply(&mut document, &delivered);
    apply(&mut document, &retrying);
    let entry = &document.observers[0].deliveries[0];
    assert_eq!((entry.state, entry.attempts), (DeliveryState::Delivered, 2));
    assert_eq!((entry.history.len(), &entry.job), (2, &None));
    assert_eq!(entry.history[0].status, Some(503));
    assert_eq!(entry.history[1].took_ms, Some(7));
    assert_eq!(entry.history[1].kind, None);
}

#[test]
fn replay_is_a_delivery_of_its_own() {
    let composer = Composer::new("default/test", &config(&[]));
    let first = report(DeliveryState::Delivered, 1);
    let mut document = composer.document(&first.event);
    apply(&mut document, &first);
    let replay = DeliveryReport {
        replay: Some("17".into()),
        ..report(DeliveryState::Retrying, 1)
    };
    apply(&mut document, &replay);
    let deliveries = &document.observers[0].deliveries;
    assert_eq!(deliveries.len(), 2);
    assert_eq!(deliveries[1].replay.as_deref(), Some("17"));
    assert!(document.is_unfinished());
}
