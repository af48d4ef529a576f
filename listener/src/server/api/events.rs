//! One event's whole way: from the history if it is there, otherwise from the change log, the checkpoints, the
//! jobs and the dead letters.

use std::sync::Arc;
use std::time::Duration;

use ::search::{DeliveryEntry, DeliveryState, Document, ObserverEntry};
use axum::response::Response;
use tokio::time::timeout;

use super::ApiContext;
use super::endpoint::{Call, json};
use super::problem::Problem;
use crate::delivery::event::Event;
use crate::history::events::{self, EventId};
use crate::history::outcome::{self, DeliveryOutcome, DeliveryState as Outcome, ObserverOutcome};
use crate::observers::Observers;

/// How long the history may take to show a document; then the log does.
const INDEX_TIMEOUT: Duration = Duration::from_secs(5);

pub(super) async fn show(call: Call) -> Result<Response, Problem> {
    let (context, tenant) = (&call.context, call.caller.tenant.as_deref());
    let id: EventId = call.id.parse()?;
    let _slot = context.searches.enter().await?;
    let observers = Arc::clone(&context.observers.borrow());
    if let Some(document) = indexed(&call, &id).await {
        return json(&visible(&observers, tenant, document));
    }
    let found = events::find_of_tenant(&context.pool, &id, tenant).await?;
    let event = found.ok_or_else(|| {
        Problem::not_found(format!(
            "there is no event {}; the change log holds events for spec.database.retention, and the history for \
             spec.search.retention",
            call.id
        ))
    })?;
    let (_, outcomes) = outcome::of_event(
        &context.pool,
        &*context.queue,
        &context.listener,
        &observers,
        &event,
    )
    .await?;
    let document = composed(context, &event, outcomes);
    json(&visible(&observers, tenant, document))
}

/// Leaves out of a document what a tenant may not know: which observers its event did not match, and why,
/// but for observers of its own.
pub(super) fn visible(
    observers: &Observers,
    tenant: Option<&str>,
    mut document: Document,
) -> Document {
    if tenant.is_some() {
        let is_own = |name: &str| {
            let mut rules = observers.rules().iter();
            let rule = rules.find(|rule| &*rule.observer == name);
            rule.is_some_and(|rule| rule.tenant.as_deref() == tenant)
        };
        document
            .observers
            .retain(|one| !one.deliveries.is_empty() || is_own(&one.observer));
    }
    document
}

/// Returns the event as the history has it. What the history cannot say now, the log may.
async fn indexed(call: &Call, id: &EventId) -> Option<Document> {
    let (index, id) = (call.context.search.as_ref()?, id.whole()?);
    match timeout(INDEX_TIMEOUT, index.get(&call.scope(), id)).await {
        Ok(Ok(found)) => found,
        Ok(Err(error)) => {
            tracing::warn!(%error, "HTTP API: the search index failed");
            None
        }
        Err(_) => {
            tracing::warn!("HTTP API: the search index does not answer in time");
            None
        }
    }
}

/// Returns the document that the history would have of an event.
fn composed(context: &ApiContext, event: &Event, outcomes: Vec<ObserverOutcome>) -> Document {
    let mut document = context.composer.document(event);
    document.observers = outcomes.into_iter().map(observer).collect();
    document.sort();
    document
}

fn observer(outcome: ObserverOutcome) -> ObserverEntry {
    ObserverEntry {
        observer: outcome.observer,
        not_matched: outcome.not_matched,
        deliveries: outcome.deliveries.into_iter().map(delivery).collect(),
    }
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
    let (is_job, history) = (outcome.is_job(), outcome.failed_attempts());
    DeliveryEntry {
        action: outcome.action,
        replay: None,
        state,
        attempts,
        history,
        due_at: outcome.at.filter(|_| is_job),
        job: is_job.then(|| outcome.delivery.clone()),
        dead_letter: outcome.dead_letter,
        details_lost: state == DeliveryState::Completed,
        delivery: outcome.delivery,
    }
}
