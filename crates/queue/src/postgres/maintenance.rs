//! Periodic maintenance: the reaper of expired workers, the rotation of partitions, and the retention
//! of completed jobs.

use super::PostgresQueue;
use crate::history::MAX_HISTORY;
use crate::{MaintenanceReport, QueueError};

/// Most completed jobs that one call purges.
const PURGE_LIMIT: i64 = 10_000;

impl PostgresQueue {
    pub(super) async fn maintain(&self) -> Result<MaintenanceReport, QueueError> {
        let expired: i64 = sqlx::query_scalar("select observer.reap_expired_workers($1, $2)")
            .bind(&self.listener)
            .bind(i32::try_from(MAX_HISTORY).unwrap_or(i32::MAX))
            .fetch_one(&self.pool)
            .await?;
        sqlx::query("select observer.rotate_job_partitions($1)")
            .bind(self.partition_bytes)
            .execute(&self.pool)
            .await?;
        if !self.config.retention.is_zero() {
            sqlx::query("select observer.purge_finished_jobs($1, $2, $3)")
                .bind(&self.listener)
                .bind(self.config.retention.as_secs_f64())
                .bind(PURGE_LIMIT)
                .execute(&self.pool)
                .await?;
        }
        Ok(MaintenanceReport {
            expired_claims: expired.unsigned_abs(),
        })
    }
}
