//! Deliveries and actions for the tests of this module.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use crate::admission::endpoint_gate::EndpointRegistry;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use chrono::{DateTime, Utc};
use crds::config::{
    ActionConfig, ActionKind, Egress, MessageFormat, Method, Operation, Redacted, Retry,
    WebhookConfig,
};
use serde_json::value::RawValue;
use testkit::wait::eventually_or;

use super::Action;
use crate::admission::action_runtime::ActionRuntime;
use crate::delivery::Delivery;
use crate::delivery::event::Event;
use crate::delivery::failure::Failure;
use crate::delivery::outcome::Outcome;
use crate::trace::spans::AttemptTrace;

pub(crate) fn now() -> DateTime<Utc> {
    "2026-03-01T12:00:00Z".parse().unwrap()
}

fn raw(json: Option<&str>) -> Option<Box<RawValue>> {
    json.map(|json| RawValue::from_string(json.to_owned()).unwrap())
}

/// The first attempt on an update of order 7 from `old` to `new`.
pub(crate) fn delivery(old: Option<&str>, new: Option<&str>) -> Delivery {
    Delivery {
        event: Arc::new(Event {
            log_id: 42,
            id: "a1b2-42".to_owned(),
            hash: 1,
            entity: "public.orders".into(),
            operation: Operation::Update,
            key: Some("7".to_owned()),
            tenant: None,
            occurred_at: now(),
            old: raw(old),
            new: raw(new),
            trace: None,
        }),
        observer: "default/big-orders".into(),
        action: "notify".into(),
        attempt: 1,
        replay: None,
        enrich: None,
        trace: AttemptTrace::default(),
    }
}

pub(crate) fn webhook(url: impl Into<String>) -> WebhookConfig {
    WebhookConfig {
        url: Redacted::new(url),
        method: Method::Post,
        headers: Vec::new(),
        body: None,
        format: MessageFormat::default(),
        content_type: "application/json".to_owned(),
        signing_secrets: Vec::new(),
        batch: None,
        tls: None,
    }
}

pub(crate) fn action(kind: ActionKind) -> ActionConfig {
    ActionConfig {
        when: None,
        name: "notify".to_owned(),
        kind,
        retry: Retry::default(),
        // As long as a busy machine may take; what is to be timed out has a time of its own.
        timeout: Duration::from_mins(5),
        queue: crds::config::ActionQueue::default(),
        ordering: crds::config::Ordering::default(),
        rate_limit: None,
        max_concurrency: None,
        cache: None,
    }
}

/// Connections to this machine allowed, as every sink is there.
pub(crate) fn runtime() -> ActionRuntime {
    ActionRuntime::new(
        &Egress {
            cidrs: vec!["127.0.0.0/8".parse().unwrap()],
            ..Egress::default()
        },
        &EndpointRegistry::default(),
    )
    .unwrap()
}

/// Attempts a delivery as often as it takes: a server that is busy, or comes back, may not answer in
/// time.
pub(crate) async fn final_outcome(action: &Action, event: &Delivery) -> Outcome {
    until(
        action,
        event,
        "a delivery that is done or refused",
        |outcome| matches!(outcome, Outcome::Delivered | Outcome::Rejected(_)),
    )
    .await
}

/// Attempts a delivery until it fails with these words: a server that is busy, or comes up, fails it
/// in other ways.
pub(crate) async fn fails_with(action: &Action, event: &Delivery, words: &str) -> Failure {
    let outcome = until(action, event, words, |outcome| match outcome {
        Outcome::Retry { failure, .. } | Outcome::Rejected(failure) => {
            failure.message.contains(words)
        }
        _ => false,
    });
    match outcome.await {
        Outcome::Retry { failure, .. } | Outcome::Rejected(failure) => failure,
        other => unreachable!("{other:?}"),
    }
}

async fn until(
    action: &Action,
    event: &Delivery,
    what: &str,
    accept: impl Fn(&Outcome) -> bool,
) -> Outcome {
    let last = Mutex::new(None);
    let look = async || {
        let outcome = action.attempt(event, now()).await;
        if accept(&outcome) {
            return Some(outcome);
        }
        *last.lock().unwrap() = Some(outcome);
        None
    };
    eventually_or(look, async || {
        format!("{what}; the last outcome was {:?}", last.lock().unwrap())
    })
    .await
}
