//! One delivery attempt.

use std::panic::AssertUnwindSafe;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use chrono::Utc;
use futures::FutureExt as _;
use opentelemetry::KeyValue;
use server::exemplars::RecordedSpan;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::Compiled;
use crate::actions::span::ActionSpan;
use crate::delivery::Delivery;
use crate::delivery::event::Event;
use crate::delivery::failure::{Failure, FailureKind};
use crate::delivery::outcome::Outcome;
use crate::trace::spans::{AttemptSpan, AttemptTrace, Finished, Spans};

/// What became of an attempt.
#[derive(Debug)]
pub(crate) struct Tried {
    /// Its outcome; nothing if it was cut off.
    pub(crate) outcome: Option<Outcome>,
    /// How long it took.
    pub(crate) took: Duration,
    /// Its span, if that is recorded.
    pub(crate) span: Option<RecordedSpan>,
}

/// Makes one attempt, unless it is cut off.
pub(crate) fn try_once(
    compiled: &Compiled,
    event: Arc<Event>,
    (attempt, replay): (u32, Option<Arc<str>>),
    cut: CancellationToken,
    spans: &Spans,
) -> impl Future<Output = Tried> + Send + use<> {
    let action = Arc::clone(&compiled.action);
    let denied = compiled.tenant_denied(&event);
    let (enrichment, cache) = (compiled.enrichment.clone(), compiled.cache.clone());
    let trace = spans.begin_attempt(&event.id, event.trace);
    let spanned = match &trace {
        AttemptTrace::Recorded(span) => {
            let made = (attempt, replay.is_some());
            Some((Arc::clone(span), attributes(compiled, &event.id, made)))
        }
        _ => None,
    };
    let mut delivery = Delivery {
        event,
        observer: Arc::clone(&compiled.name.observer),
        action: Arc::clone(&compiled.name.action),
        attempt,
        replay,
        enrich: None,
        trace,
    };
    async move {
        let begun = Instant::now();
        if let Some(failure) = denied {
            return Tried {
                outcome: Some(Outcome::Rejected(failure)),
                took: begun.elapsed(),
                span: None,
            };
        }
        let trying = async {
            if let Some(enrichment) = enrichment
                && let Err(outcome) = Box::pin(enrichment.enrich(&mut delivery, Utc::now())).await
            {
                return outcome;
            }
            let attempt = action.attempt(&delivery, Utc::now());
            match cache {
                Some(cache) => Box::pin(cache.attempt(&delivery, attempt)).await,
                None => attempt.await,
            }
        };
        let trying = pin!(AssertUnwindSafe(trying).catch_unwind());
        let tried = cut.run_until_cancelled(trying).await;
        let panicked = |_| {
            let message = "the action panicked on this event; the log says where. Please report it";
            Outcome::Rejected(Failure::of(FailureKind::Event, message))
        };
        let outcome = tried.map(|tried| tried.unwrap_or_else(panicked));
        let span = spanned.map(|(span, attributes)| {
            end_span(&span, action.span(), attributes, outcome.as_ref());
            span.recorded()
        });
        Tried {
            outcome,
            took: begun.elapsed(),
            span,
        }
    }
}

/// Returns what the span of an attempt says, whatever its outcome is.
fn attributes(
    compiled: &Compiled,
    event_id: &str,
    (attempt, is_replay): (u32, bool),
) -> Vec<KeyValue> {
    let name = &compiled.name;
    let mut all = compiled.action.span().attributes.clone();
    all.extend([
        KeyValue::new("observer.name", Arc::clone(&name.observer)),
        KeyValue::new("observer.action", Arc::clone(&name.action)),
        KeyValue::new("observer.event.id", event_id.to_owned()),
        KeyValue::new("observer.attempt", i64::from(attempt)),
    ]);
    if is_replay {
        all.push(KeyValue::new("observer.replay", true));
    }
    all
}

/// Records the span of an attempt. One that was not admitted was not made.
fn end_span(
    span: &AttemptSpan,
    action: &ActionSpan,
    mut attributes: Vec<KeyValue>,
    outcome: Option<&Outcome>,
) {
    let (word, failure) = match outcome {
        Some(Outcome::Deferred(_)) => return,
        Some(Outcome::Delivered) => ("delivered", None),
        Some(Outcome::Skipped) => ("skipped", None),
        Some(Outcome::Cached) => ("cached", None),
        Some(Outcome::Retry { failure, .. }) => ("retry", Some(failure)),
        Some(Outcome::Rejected(failure)) => ("rejected", Some(failure)),
        None => ("cancelled", None),
    };
    attributes.push(KeyValue::new("observer.outcome", word));
    let status = failure
        .and_then(|failure| failure.status)
        .or_else(|| span.status());
    attributes
        .extend(status.map(|status| KeyValue::new("http.response.status_code", i64::from(status))));
    attributes.extend(failure.map(|failure| KeyValue::new("error.type", failure.kind.as_str())));
    span.end(Finished {
        name: action.name.clone(),
        kind: action.kind.clone(),
        attributes,
        // Messages may hold what a receiver answered, and with it values of rows.
        error: failure.map(|failure| failure.kind.as_str().to_owned()),
    });
}
