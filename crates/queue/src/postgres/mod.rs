//! Backend in Postgres: rows of `observer.job`, and SQL functions that each do one step in one
//! statement (see the migrations). Two rules keep lanes alive: a transaction that adds to a lane locks
//! its first job, and one that removes the first job makes the next one available.
//!
//! Only the server's clock counts.

mod admin;
mod claim;
mod columns;
mod complete;
mod enqueue;
mod hash;
mod heartbeat;
mod maintenance;
mod queries;

use std::sync::{Mutex, PoisonError};

use async_trait::async_trait;
use sqlx::{PgConnection, PgPool};

use crate::{
    BackendKind, ClaimRequest, ClaimToken, DeadLetterSink, FinishedClaim, HeartbeatResponse,
    JobFilter, JobQueue, JobView, Lane, LaneBatch, LaneHead, LanesOfAction, MaintenanceReport,
    NewJob, QueueConfig, QueueError, QueueStats, WorkerId,
};
use hash::RoundRobinCursor;

/// Bytes of a partition after which new jobs go to the next one. While an old snapshot is open, a claim
/// skips the dead rows of its partition, which takes a few milliseconds for this many bytes.
const PARTITION_BYTES: i64 = 8 * 1024 * 1024;

/// Job queue of one listener in Postgres.
#[derive(Debug)]
pub struct PostgresQueue {
    pool: PgPool,
    listener: String,
    config: QueueConfig,
    partition_bytes: i64,
    /// Position after the last claim in the rotation over actions and tenants.
    cursor: Mutex<RoundRobinCursor>,
}

impl PostgresQueue {
    /// Creates the queue of a listener. Calls hold a connection for one statement or one short
    /// transaction.
    #[must_use]
    pub fn new(pool: PgPool, listener: &str, config: QueueConfig) -> Self {
        Self {
            pool,
            listener: listener.to_owned(),
            config,
            partition_bytes: PARTITION_BYTES,
            cursor: Mutex::new(RoundRobinCursor::default()),
        }
    }

    /// Sets the size of a partition, so that a test rotates through many.
    #[must_use]
    pub fn with_partition_bytes(mut self, bytes: i64) -> Self {
        self.partition_bytes = bytes;
        self
    }

    fn cursor(&self) -> RoundRobinCursor {
        *self.cursor.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set_cursor(&self, cursor: RoundRobinCursor) {
        *self.cursor.lock().unwrap_or_else(PoisonError::into_inner) = cursor;
    }
}

#[async_trait]
impl JobQueue for PostgresQueue {
    fn backend(&self) -> BackendKind {
        BackendKind::Postgres
    }

    async fn enqueue(&self, tx: &mut PgConnection, jobs: &[NewJob]) -> Result<(), QueueError> {
        self.insert(tx, jobs).await
    }

    async fn claim(
        &self,
        worker: WorkerId,
        request: &ClaimRequest,
    ) -> Result<Vec<LaneBatch>, QueueError> {
        self.claim_batches(worker, request).await
    }

    async fn finish(
        &self,
        worker: WorkerId,
        finished: &[FinishedClaim],
        sink: &dyn DeadLetterSink,
    ) -> Result<Vec<ClaimToken>, QueueError> {
        self.complete(worker, finished, sink).await
    }

    async fn register(&self, worker: WorkerId, name: &str) -> Result<(), QueueError> {
        self.register_worker(worker, name).await
    }

    async fn heartbeat(&self, worker: WorkerId) -> Result<HeartbeatResponse, QueueError> {
        self.renew_lease(worker).await
    }

    async fn deregister(&self, worker: WorkerId) -> Result<(), QueueError> {
        self.deregister_worker(worker).await
    }

    async fn run_maintenance(&self) -> Result<MaintenanceReport, QueueError> {
        self.maintain().await
    }

    async fn lane_heads(&self, lanes: &[Lane]) -> Result<Vec<Option<LaneHead>>, QueueError> {
        self.query_lane_heads(lanes).await
    }

    async fn lanes_with_jobs(
        &self,
        shards: &[u16],
        shard_count: u16,
        max_lanes: usize,
    ) -> Result<Vec<LanesOfAction>, QueueError> {
        self.query_lanes(shards, shard_count, max_lanes).await
    }

    async fn stats(&self) -> Result<Vec<(String, QueueStats)>, QueueError> {
        self.query_stats().await
    }

    async fn list(
        &self,
        filter: &JobFilter,
        limit: usize,
    ) -> Result<(Vec<JobView>, u64), QueueError> {
        self.query_jobs(filter, limit).await
    }

    async fn find(&self, ids: &[String]) -> Result<Vec<JobView>, QueueError> {
        self.find_jobs(ids).await
    }

    async fn show_of_tenant(
        &self,
        id: &str,
        tenant: Option<&str>,
    ) -> Result<Option<JobView>, QueueError> {
        self.query_job(id, tenant).await
    }

    async fn retry(&self, filter: &JobFilter) -> Result<u64, QueueError> {
        self.run_now(filter).await
    }

    async fn cancel(&self, filter: &JobFilter) -> Result<u64, QueueError> {
        self.cancel_jobs(filter).await
    }

    async fn is_empty(&self) -> Result<bool, QueueError> {
        self.query_is_empty().await
    }
}
