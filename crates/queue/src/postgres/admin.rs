//! Commands on jobs that match a filter.

use std::time::Duration;

use super::PostgresQueue;
use super::columns::states;
use crate::{JobFilter, QueueError};

/// Most jobs of one transaction of a command.
const BATCH_SIZE: i64 = 1000;

/// Most transactions of one command; the next call does the rest.
const MAX_BATCHES: usize = 100_000;

/// Most passes over jobs that were locked in the pass before, and the pause between two. New jobs may
/// keep coming, so passes are bounded.
const MAX_PASSES: usize = 20;
const PASS_PAUSE: Duration = Duration::from_millis(50);

impl PostgresQueue {
    /// Makes scheduled jobs due now, batch by batch.
    pub(super) async fn run_now(&self, filter: &JobFilter) -> Result<u64, QueueError> {
        self.in_batches(
            filter,
            "select observer.job_run_now($1, $2, $3, $4, $5, $6, $7)",
        )
        .await
    }

    /// Removes pending jobs and marks running ones as cancelled, batch by batch. Jobs that others have
    /// locked are skipped, and picked up by the next pass.
    pub(super) async fn cancel_jobs(&self, filter: &JobFilter) -> Result<u64, QueueError> {
        let mut total = 0;
        for _ in 0..MAX_PASSES {
            total += self
                .in_batches(
                    filter,
                    "select observer.job_cancel($1, $2, $3, $4, $5, $6, $7)",
                )
                .await?;
            let left: bool = sqlx::query_scalar(
                "select exists (
                     select from observer.job p
                     where p.queue = observer.job_queue_of($1) and p.cancelled is null
                         and ($2::text[] is null or p.dedup_key = any ($2)) and ($3::text is null or p.observer = $3)
                         and ($4::text is null or p.action = $4) and ($5::text[] is null or p.state::text = any ($5))
                         and ($6::text is null or p.tenant = $6))",
            )
            .bind(&self.listener)
            .bind(&filter.ids)
            .bind(&filter.observer)
            .bind(&filter.action)
            .bind(states(filter.state))
            .bind(&filter.tenant)
            .fetch_one(&self.pool)
            .await?;
            if !left {
                break;
            }
            tokio::time::sleep(PASS_PAUSE).await;
        }
        Ok(total)
    }

    async fn in_batches(&self, filter: &JobFilter, sql: &'static str) -> Result<u64, QueueError> {
        let mut total = 0;
        for _ in 0..MAX_BATCHES {
            let some: i64 = sqlx::query_scalar(sql)
                .bind(&self.listener)
                .bind(&filter.ids)
                .bind(&filter.observer)
                .bind(&filter.action)
                .bind(states(filter.state))
                .bind(&filter.tenant)
                .bind(BATCH_SIZE)
                .fetch_one(&self.pool)
                .await?;
            total += some.unsigned_abs();
            if some == 0 {
                break;
            }
        }
        Ok(total)
    }
}
