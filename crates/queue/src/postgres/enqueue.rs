//! Adding jobs.

use std::collections::HashSet;

use sqlx::PgConnection;

use super::columns::{integer, priority_number};
use super::{PostgresQueue, hash};
use crate::{Job, NewJob, QueueError};

impl PostgresQueue {
    pub(super) async fn insert(
        &self,
        tx: &mut PgConnection,
        jobs: &[NewJob],
    ) -> Result<(), QueueError> {
        if jobs.is_empty() {
            return Ok(());
        }
        let numbers =
            |of: &dyn Fn(&Job) -> i64| jobs.iter().map(|new| of(&new.job)).collect::<Vec<_>>();
        let texts = |of: &dyn for<'a> Fn(&'a Job) -> &'a str| {
            jobs.iter()
                .map(|new| of(&new.job).to_owned())
                .collect::<Vec<_>>()
        };
        let optional_texts = |of: &dyn Fn(&Job) -> Option<String>| {
            jobs.iter().map(|new| of(&new.job)).collect::<Vec<_>>()
        };
        let tenant_hashes = jobs
            .iter()
            .map(|new| hash::tenant_hash(new.job.tenant.as_deref()));
        let priorities = jobs.iter().map(|new| priority_number(new.job.priority));
        let key_hashes = jobs.iter().map(|new| integer(new.job.lane.hash));
        let delays = jobs.iter().map(|new| new.delay.as_secs_f64());
        let attempts = jobs.iter().map(|new| integer(new.attempts));
        let events = jobs.iter().map(|new| new.job.event.get());
        let histories = jobs.iter().map(|new| new.history.get());
        let lanes = numbers(&|job| hash::lane_id(&self.listener, &job.lane));
        let mut known = HashSet::with_capacity(lanes.len());
        let repeated_lanes: Vec<bool> = lanes.iter().map(|lane| !known.insert(*lane)).collect();
        sqlx::query(
            "select observer.job_enqueue($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17,
                                         $18, $19)",
        )
        .bind(&self.listener)
        .bind(texts(&|job| &job.id))
        .bind(lanes)
        .bind(numbers(&|job| {
            hash::action_hash(&job.lane.observer, &job.lane.action)
        }))
        .bind(tenant_hashes.collect::<Vec<_>>())
        .bind(priorities.collect::<Vec<_>>())
        .bind(key_hashes.collect::<Vec<_>>())
        .bind(numbers(&|job| job.log_id))
        .bind(texts(&|job| &job.event_id))
        .bind(texts(&|job| &job.lane.observer))
        .bind(texts(&|job| &job.lane.action))
        .bind(texts(&|job| &job.entity))
        .bind(optional_texts(&|job| job.key.clone()))
        .bind(optional_texts(&|job| job.tenant.clone()))
        .bind(events.collect::<Vec<_>>())
        .bind(delays.collect::<Vec<_>>())
        .bind(attempts.collect::<Vec<_>>())
        .bind(histories.collect::<Vec<_>>())
        .bind(repeated_lanes)
        .execute(tx)
        .await?;
        Ok(())
    }
}
