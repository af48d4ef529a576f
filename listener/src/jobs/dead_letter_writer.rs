//! Jobs that are given up become dead letters, where their observers want that.

use std::sync::Arc;

use ::queue::{DeadLetterSink, FinishedClaim, JobOutcome};
use async_trait::async_trait;
use crds::config::{OnFailure, Operation};
use sqlx::PgConnection;

use crate::dead_letters::store::{self, NewDeadLetter};
use crate::delivery::event::Event;
use crate::jobs::payload::{self, JobPayload};
use crate::observers::Observers;

/// Writes the dead letters of one listener.
#[derive(Clone, Debug)]
pub(crate) struct DeadLetterWriter {
    pub(crate) listener: Arc<str>,
    pub(crate) observers: Arc<Observers>,
}

impl DeadLetterWriter {
    /// Whether its observer wants it kept. One that is gone cannot say otherwise.
    fn keeps(&self, ended: &FinishedClaim) -> bool {
        let lane = &ended.job.lane;
        let name = (Arc::clone(&lane.observer), Arc::clone(&lane.action));
        let known = self.observers.compiled(&name);
        known.is_none_or(|known| known.on_failure == OnFailure::DeadLetter)
    }
}

#[async_trait]
impl DeadLetterSink for DeadLetterWriter {
    async fn write(
        &self,
        tx: &mut PgConnection,
        dead: &[&FinishedClaim],
    ) -> Result<(), sqlx::Error> {
        let letters: Vec<NewDeadLetter> = dead
            .iter()
            .filter(|ended| self.keeps(ended))
            .filter_map(|ended| letter(ended))
            .collect();
        store::insert(tx, &self.listener, letters.iter()).await
    }
}

fn letter(ended: &FinishedClaim) -> Option<NewDeadLetter> {
    let JobOutcome::Discarded { attempts, history } = &ended.outcome else {
        return None;
    };
    let job = &ended.job;
    // What cannot be read is kept without its images.
    let carried = payload::read(job).unwrap_or_else(|_| JobPayload {
        event: Event {
            log_id: job.log_id,
            id: job.event_id.clone(),
            hash: job.lane.hash,
            entity: Arc::from(job.entity.as_str()),
            operation: Operation::Custom,
            key: job.key.clone(),
            tenant: job.tenant.clone(),
            occurred_at: ended.enqueued_at,
            old: None,
            new: None,
        },
        attempts_before: 0,
        replay: None,
    });
    Some(NewDeadLetter {
        event: Arc::new(carried.event),
        observer: Arc::clone(&job.lane.observer),
        action: Arc::clone(&job.lane.action),
        attempts: attempts.saturating_add(carried.attempts_before),
        history: serde_json::from_str(history.get()).unwrap_or_default(),
    })
}
