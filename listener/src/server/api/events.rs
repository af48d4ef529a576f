//! One event's whole way: from the history if it is there, otherwise from the change log, the checkpoints, the
//! jobs and the dead letters.

use std::collections::BTreeMap;
use std::sync::Arc;

use ::search::{DeliveryAttempt, DeliveryEntry, DeliveryState, Document, ObserverEntry, Scope};
use axum::response::Response;
use crds::config::SearchConfig;
use serde::Deserialize;
use serde_json::value::{RawValue, to_raw_value};

use super::ApiContext;
use super::endpoint::{Call, json};
use super::problem::Problem;
use crate::delivery::event::Event;
use crate::history::events::{self, EventId};
use crate::history::outcome::{self, DeliveryOutcome, DeliveryState as Outcome, ObserverOutcome};

pub(super) async fn show(call: Call) -> Result<Response, Problem> {
    let (context, tenant) = (&call.context, call.caller.tenant.as_deref());
    let id: EventId = call.id.parse()?;
    if let Some(document) = indexed(context, tenant, &id).await {
        return json(&document);
    }
    let found = events::find_of_tenant(&context.pool, &id, tenant).await?;
    let event = found.ok_or_else(|| {
        Problem::not_found(format!(
            "there is no event {}; the change log holds events for spec.database.retention, and the history for \
             spec.search.retention",
            call.id
        ))
    })?;
    let observers = Arc::clone(&context.observers.borrow());
    let (_, outcomes) = outcome::of_event(
        &context.pool,
        &*context.queue,
        &context.listener,
        &observers,
        &event,
    )
    .await?;
    json(&composed(context, &event, outcomes))
}

/// Returns the event as the history has it. What the history cannot say now, the log may.
async fn indexed(context: &ApiContext, tenant: Option<&str>, id: &EventId) -> Option<Document> {
    let (index, id) = (context.search.as_ref()?, id.whole()?);
    let scope = Scope {
        listener: context.listener.to_string(),
        tenant: tenant.map(str::to_owned),
    };
    match index.get(&scope, id).await {
        Ok(found) => found,
        Err(error) => {
            tracing::warn!(%error, "HTTP API: the search index failed");
            None
        }
    }
}

/// Returns the document that the history would have of an event.
fn composed(context: &ApiContext, event: &Event, outcomes: Vec<ObserverOutcome>) -> Document {
    let history = context.history.as_deref();
    let mut document = Document {
        id: event.id.clone(),
        listener: context.listener.to_string(),
        log_id: event.log_id,
        entity: event.entity.to_string(),
        operation: event.operation,
        key: event.key.clone(),
        tenant: event.tenant.clone(),
        occurred_at: event.occurred_at,
        trace_id: None,
        old: image(event.old.as_deref(), &event.entity, history),
        new: image(event.new.as_deref(), &event.entity, history),
        changed: event.changed(),
        observers: outcomes.into_iter().map(observer).collect(),
    };
    document.sort();
    document
}

/// Returns an image without the columns that never reach the history; nothing where that cannot be told.
fn image(
    image: Option<&RawValue>,
    entity: &str,
    history: Option<&SearchConfig>,
) -> Option<Box<RawValue>> {
    let image = image?;
    let columns = history.map_or(&[][..], |history| &history.redact);
    let mut of_entity = columns
        .iter()
        .filter(|column| column.entity.as_deref().is_none_or(|one| one == entity))
        .peekable();
    if of_entity.peek().is_none() {
        return Some(image.to_owned());
    }
    let mut fields: BTreeMap<String, Box<RawValue>> = serde_json::from_str(image.get()).ok()?;
    for column in of_entity {
        fields.remove(&column.column);
    }
    to_raw_value(&fields).ok()
}

fn observer(outcome: ObserverOutcome) -> ObserverEntry {
    ObserverEntry {
        observer: outcome.observer,
        not_matched: outcome.not_matched,
        deliveries: outcome.deliveries.into_iter().map(delivery).collect(),
    }
}

/// An attempt as jobs and dead letters keep it.
#[derive(Deserialize)]
struct StoredAttempt {
    at: chrono::DateTime<chrono::Utc>,
    kind: Option<String>,
    error: Option<String>,
    status: Option<u16>,
}

fn delivery(outcome: DeliveryOutcome) -> DeliveryEntry {
    let attempts = outcome.attempts.unwrap_or_default();
    let state = match outcome.state {
        // That the checkpoint is past it says no more.
        Outcome::Delivered if outcome.attempts.is_none() => DeliveryState::Completed,
        Outcome::Delivered => DeliveryState::Delivered,
        Outcome::DeliveredOrDropped => DeliveryState::Completed,
        Outcome::Pending => DeliveryState::Pending,
        Outcome::Queued | Outcome::Running if attempts > 0 => DeliveryState::Retrying,
        Outcome::Queued | Outcome::Running => DeliveryState::Queued,
        Outcome::DeadLetter | Outcome::RedriveRequested => DeliveryState::DeadLetter,
    };
    let is_job = matches!(outcome.state, Outcome::Queued | Outcome::Running);
    let history = outcome.history.as_deref().map(RawValue::get);
    let history: Vec<StoredAttempt> = history
        .and_then(|history| serde_json::from_str(history).ok())
        .unwrap_or_default();
    let history = history.into_iter().map(|one| DeliveryAttempt {
        at: one.at,
        took_ms: None,
        status: one.status,
        kind: one.kind,
        error: one.error,
    });
    DeliveryEntry {
        action: outcome.action,
        replay: None,
        state,
        attempts,
        history: history.collect(),
        due_at: outcome.at.filter(|_| is_job),
        job: is_job.then(|| outcome.delivery.clone()),
        dead_letter: outcome.dead_letter,
        details_lost: state == DeliveryState::Completed,
        delivery: outcome.delivery,
    }
}
