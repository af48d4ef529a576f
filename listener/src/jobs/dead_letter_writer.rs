//! Dead letters of discarded jobs, unless their observers drop them.

use std::sync::Arc;

use ::queue::{DeadLetterSink, FinishedClaim, JobOutcome};
use async_trait::async_trait;
use crds::config::{OnFailure, Operation};
use sqlx::PgConnection;

use crate::dead_letters::store::{self, NewDeadLetter};
use crate::delivery::ActionName;
use crate::delivery::event::Event;
use crate::jobs::payload::{self, JobPayload};
use crate::observers::Observers;

/// Writer of one listener's dead letters.
#[derive(Clone, Debug)]
pub(crate) struct DeadLetterWriter {
    pub(crate) listener: Arc<str>,
    pub(crate) observers: Arc<Observers>,
}

impl DeadLetterWriter {
    /// Whether a job becomes a dead letter: unless its observer drops failed deliveries.
    fn keeps(&self, finished: &FinishedClaim) -> bool {
        let name = ActionName::from(&finished.job.lane);
        let compiled = self.observers.compiled(&name);
        compiled.is_none_or(|compiled| compiled.on_failure == OnFailure::DeadLetter)
    }
}

#[async_trait]
impl DeadLetterSink for DeadLetterWriter {
    async fn write(
        &self,
        tx: &mut PgConnection,
        discarded: &[&FinishedClaim],
    ) -> Result<(), sqlx::Error> {
        let letters: Vec<NewDeadLetter> = discarded
            .iter()
            .filter(|finished| self.keeps(finished))
            .filter_map(|finished| dead_letter(finished))
            .collect();
        store::insert(tx, &self.listener, letters.iter()).await
    }
}

fn dead_letter(finished: &FinishedClaim) -> Option<NewDeadLetter> {
    let JobOutcome::Discarded { attempts, history } = &finished.outcome else {
        return None;
    };
    let job = &finished.job;
    // A payload that cannot be decoded is kept without its images.
    let payload = payload::decode(job).unwrap_or_else(|_| JobPayload {
        event: Arc::new(Event {
            log_id: job.log_id,
            id: job.event_id.clone(),
            hash: job.lane.hash,
            entity: Arc::from(job.entity.as_str()),
            operation: Operation::Custom,
            key: job.key.clone(),
            tenant: job.tenant.clone(),
            occurred_at: finished.enqueued_at,
            old: None,
            new: None,
            trace: None,
        }),
        attempts_before: 0,
        replay: None,
    });
    Some(NewDeadLetter {
        event: payload.event,
        observer: Arc::clone(&job.lane.observer),
        action: Arc::clone(&job.lane.action),
        attempts: attempts.saturating_add(payload.attempts_before),
        history: serde_json::from_str(history.get()).unwrap_or_default(),
    })
}
