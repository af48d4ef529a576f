//! Registration and lease of workers.

use super::PostgresQueue;
use super::claim::token;
use crate::{HeartbeatResponse, QueueError, WorkerId};

impl PostgresQueue {
    pub(super) async fn register_worker(
        &self,
        worker: WorkerId,
        name: &str,
    ) -> Result<(), QueueError> {
        sqlx::query("select observer.worker_register($1, $2, $3, $4)")
            .bind(&self.listener)
            .bind(worker.0)
            .bind(name.replace('\0', ""))
            .bind(self.config.lease.as_secs_f64())
            .execute(&self.pool)
            .await?;
        Ok(())
    }

    /// Renews the lease of a worker and returns its claims that were cancelled.
    pub(super) async fn renew_lease(
        &self,
        worker: WorkerId,
    ) -> Result<HeartbeatResponse, QueueError> {
        let renewed = sqlx::query(
            "update observer.job_worker
             set expires_at = clock_timestamp() + make_interval(secs => $3)
             where id = $2 and queue = observer.job_queue_of($1) and expires_at > clock_timestamp()",
        )
        .bind(&self.listener)
        .bind(worker.0)
        .bind(self.config.lease.as_secs_f64())
        .execute(&self.pool)
        .await?;
        if renewed.rows_affected() == 0 {
            return Ok(HeartbeatResponse::Expired);
        }
        let rows = sqlx::query(
            "select partition_no, id, cancelled::text as at, claim_generation from observer.job
             where queue = observer.job_queue_of($1) and state = 'r' and worker = $2 and cancelled is not null",
        )
        .bind(&self.listener)
        .bind(worker.0)
        .fetch_all(&self.pool)
        .await?;
        let cancelled = rows.iter().map(token).collect::<Result<_, _>>()?;
        Ok(HeartbeatResponse::Renewed { cancelled })
    }

    pub(super) async fn deregister_worker(&self, worker: WorkerId) -> Result<(), QueueError> {
        sqlx::query("select observer.worker_deregister($1, $2)")
            .bind(&self.listener)
            .bind(worker.0)
            .execute(&self.pool)
            .await?;
        Ok(())
    }
}
