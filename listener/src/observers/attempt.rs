//! One delivery attempt.

use std::panic::AssertUnwindSafe;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use chrono::Utc;
use futures::FutureExt as _;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::Compiled;
use crate::delivery::Delivery;
use crate::delivery::event::Event;
use crate::delivery::failure::{Failure, FailureKind};
use crate::delivery::outcome::Outcome;

/// Makes one attempt, unless it is cut off. Returns its outcome, nothing if it was cut off, and how long it
/// took.
pub(crate) fn try_once(
    compiled: &Compiled,
    event: Arc<Event>,
    attempt: u32,
    replay: Option<Arc<str>>,
    cut: CancellationToken,
) -> impl Future<Output = (Option<Outcome>, Duration)> + Send + use<> {
    let action = Arc::clone(&compiled.action);
    let denied = compiled.tenant_denied(&event);
    let (enrichment, cache) = (compiled.enrichment.clone(), compiled.cache.clone());
    let mut delivery = Delivery {
        event,
        observer: Arc::clone(&compiled.name.observer),
        action: Arc::clone(&compiled.name.action),
        attempt,
        replay,
        enrich: None,
    };
    async move {
        let begun = Instant::now();
        if let Some(failure) = denied {
            return (Some(Outcome::Rejected(failure)), begun.elapsed());
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
        (outcome, begun.elapsed())
    }
}
