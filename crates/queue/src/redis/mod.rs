//! Backend in Redis, in streams; also in servers that speak its protocol and have its streams and scripts.
//! Redis 7 or newer: one server, one behind Sentinels, or a Cluster, where all keys of a listener share a
//! slot. While that slot moves to another node, calls fail until the move is done.
//!
//! # Keys
//! All keys begin with `observers:{<listener>}:`.
//!
//! A hash for each job (`job:<ref>`) is the source of truth. The ref is the job's number in the order of
//! enqueueing; a lane is a sorted set of refs (`lane:...`). Only the first job of a lane is ready,
//! delayed or claimed, with those of its batch claimed too. Ready jobs lie in a stream for each
//! priority, action and tenant (`ready:...`), which workers read through the consumer group `workers`.
//! Claims rotate over actions (`action_rotation:...`) and over the tenants of each
//! (`tenant_rotation:...`). Delayed jobs lie in one sorted set by due time.
//!
//! Every step is one script, and so is atomic. Only the server's clock counts.
//!
//! A claim deletes the entries that it reads: the job's hash says who holds it and under which
//! generation, written by the same script, and one lease covers all claims of a worker. So the pending
//! entries list is not used, a stream holds ready jobs and nothing else, empty streams are deleted, and
//! nothing grows with history. It also means that streams and groups may be lost: a lost group is
//! created before the first entry of its stream, and streams are filled again from the hashes.
//!
//! # Durability
//! Redis acknowledges writes before they are safe, unless told otherwise. A job that was acknowledged
//! and then lost with the server is lost: the checkpoint has passed its event. With `appendonly no` that
//! is everything since the last snapshot; with `appendfsync everysec` about the last second, two at
//! most; with `appendfsync no` what the system had not written yet. With `appendonly yes` and
//! `appendfsync always` **nothing is lost** in a crash of the server or its machine, as long as its disk
//! survives. With any setting, a failover to a replica loses what had not reached the replica.
//! [`RedisQueue::durability`] returns what the server reports.
//!
//! If the end of a completed job is lost, the job is attempted again under the same id.
//!
//! # Bounds
//! A claim whose reply is lost is returned before the next one. A dedup key is kept for
//! [`REMEMBER_IDS_FOR`] after its job ended, but at most [`MAX_REMEMBERED_IDS`] of them: within these
//! bounds a delivery is added once. The server must not evict keys (`maxmemory-policy noeviction`): when
//! it is full it rejects new jobs, and the listener holds its checkpoints back.

mod admin;
mod claim;
mod complete;
mod decode;
mod durability;
mod enqueue;
mod maintenance;
mod scripts;
mod server;
mod unconfirmed;
mod workers;

use std::time::Duration;

use async_trait::async_trait;
use redis_connection::RedisEndpoint;
use sqlx::{PgConnection, PgPool};

pub use durability::Durability;

use crate::{
    BackendKind, ClaimRequest, ClaimToken, DeadLetterSink, FinishedClaim, HeartbeatResponse,
    JobFilter, JobQueue, JobView, Lane, LaneBatch, LaneHead, LanesOfAction, MaintenanceReport,
    NewJob, QueueConfig, QueueError, QueueStats, WorkerId,
};
use server::Server;
use unconfirmed::UnconfirmedClaims;

/// How long the dedup key of a job is kept after the job ended.
pub const REMEMBER_IDS_FOR: Duration = Duration::from_hours(1);

/// Most dedup keys of ended jobs that are kept, the latest ones.
pub const MAX_REMEMBERED_IDS: usize = 250_000;

/// Maximum number of completed jobs that are kept, the latest ones. It limits the retention.
pub const MAX_COMPLETED_JOBS: usize = 100_000;

/// Job queue of one listener in Redis.
#[derive(Debug)]
pub struct RedisQueue {
    server: Server,
    pool: PgPool,
    config: QueueConfig,
    durability: Durability,
    unconfirmed: UnconfirmedClaims,
}

/// Why a Redis server cannot be used. All but the first may be retried.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The URL is invalid; it is not repeated, since it may hold a password.
    #[error("the address of Redis cannot be used: {0}")]
    Address(String),
    /// The server failed.
    #[error("Redis cannot be asked for its settings: {0}")]
    Redis(#[from] ::redis::RedisError),
    /// The server evicts keys when its memory is full.
    #[error(
        "Redis evicts keys when its memory is full (maxmemory-policy {0}), and jobs with them: set maxmemory-policy noeviction"
    )]
    Evicts(String),
}

impl RedisQueue {
    /// Opens the queue of a listener, `namespace/name`. Dead letters are written through `pool`, in transactions of their own.
    ///
    /// Every call ends within a few times [`Self::CALL_TIMEOUT`], even if the server hangs, and calls
    /// succeed again once it is back.
    pub async fn open(
        endpoint: &RedisEndpoint,
        listener: &str,
        pool: PgPool,
        config: QueueConfig,
    ) -> Result<Self, OpenError> {
        let server = Server::open(endpoint, listener)?;
        let durability = durability::read(&server).await?;
        Ok(Self {
            server,
            pool,
            config,
            durability,
            unconfirmed: UnconfirmedClaims::default(),
        })
    }

    /// Durability of acknowledged jobs, as the server was set up when the queue was opened.
    #[must_use]
    pub fn durability(&self) -> Durability {
        self.durability
    }
}

#[async_trait]
impl JobQueue for RedisQueue {
    fn backend(&self) -> BackendKind {
        BackendKind::Redis
    }

    async fn enqueue(&self, _: &mut PgConnection, jobs: &[NewJob]) -> Result<(), QueueError> {
        self.insert(jobs).await
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
        self.run_command(admin::RETRY, filter).await
    }

    async fn cancel(&self, filter: &JobFilter) -> Result<u64, QueueError> {
        self.run_command(admin::CANCEL, filter).await
    }

    async fn is_empty(&self) -> Result<bool, QueueError> {
        let pending: u64 = self.server.command_of("ZCARD", "pending").await?;
        Ok(pending == 0)
    }
}
