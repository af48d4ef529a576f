//! Jobs, and what is seen of them.

use std::sync::{LazyLock, Mutex, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use observer_queue::{DeadLetterSink, FinishedClaim, Job, Lane, NewJob, Priority};
use serde_json::value::RawValue;
use sqlx::PgConnection;

use super::Failure;

/// The observer of all jobs.
pub(crate) const OBSERVER: &str = "shop/orders";

/// Its action.
pub(crate) const ACTION: &str = "notify";

static ZERO: LazyLock<Instant> = LazyLock::new(Instant::now);

/// Milliseconds since the first call.
pub(crate) fn now() -> f64 {
    ZERO.elapsed().as_secs_f64() * 1000.0
}

/// A job that carries what those of the other systems do, and when it was made.
pub(crate) fn job(number: u32, hash: u32) -> Result<NewJob, Failure> {
    let event = serde_json::json!({"n": number, "at": now(), "text": "x".repeat(100)});
    Ok(NewJob {
        job: Job {
            id: format!("delivery-{number}"),
            lane: Lane {
                observer: OBSERVER.into(),
                action: ACTION.into(),
                hash,
            },
            log_id: i64::from(number),
            event_id: format!("event-{number}"),
            entity: "public.orders".to_owned(),
            key: Some(hash.to_string()),
            tenant: None,
            priority: Priority::Normal,
            event: RawValue::from_string(event.to_string())?,
        },
        delay: Duration::ZERO,
        attempts: 0,
        history: RawValue::from_string("[]".to_owned())?,
    })
}

/// How long jobs had waited when they began, in milliseconds.
#[derive(Debug, Default)]
pub(crate) struct Seen(Mutex<Vec<f64>>);

impl Seen {
    /// A job begins.
    pub(crate) fn begun(&self, job: &Job) {
        #[derive(serde::Deserialize)]
        struct Event {
            at: f64,
        }
        if let Ok(event) = serde_json::from_str::<Event>(job.event.get()) {
            let waited = now() - event.at;
            self.0
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push(waited);
        }
    }

    /// All of them, the shortest first.
    pub(crate) fn sorted(&self) -> Vec<f64> {
        let mut all = self
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        all.sort_by(f64::total_cmp);
        all
    }
}

/// No job here dies.
pub(crate) struct NoDeadLetters;

#[async_trait]
impl DeadLetterSink for NoDeadLetters {
    async fn write(&self, _: &mut PgConnection, _: &[&FinishedClaim]) -> Result<(), sqlx::Error> {
        Ok(())
    }
}
