//! Interface of the backends.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use serde::Serialize;
use sqlx::PgConnection;
use uuid::Uuid;

use crate::{
    ClaimToken, DeadLetterSink, FinishedClaim, JobFilter, JobView, Lane, LaneBatch, NewJob,
    QueueError,
};

/// Most jobs of one lane in one claim.
pub const MAX_JOBS_PER_LANE: usize = 16;

/// Most lanes of one call to [`JobQueue::lane_heads`].
pub const MAX_LANES_PER_QUERY: usize = 1024;

/// Kind of backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BackendKind {
    /// Tables of the schema `observer`.
    Postgres,
    /// Streams of a Redis server.
    Redis,
}

impl BackendKind {
    /// Name in the configuration.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Postgres => "Postgres",
            Self::Redis => "Redis",
        }
    }
}

impl fmt::Display for BackendKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Settings of a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueConfig {
    /// Lease of a worker: time from its last heartbeat until its claims expire.
    pub lease: Duration,
    /// Retention of completed jobs; zero keeps none.
    pub retention: Duration,
}

/// Id of a registered worker. A worker whose lease expired registers again under a new id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct WorkerId(pub Uuid);

/// Limits of one claim.
#[derive(Clone, Debug)]
pub struct ClaimRequest {
    /// Most lanes.
    pub max_lanes: usize,
    /// Bytes of events after which no more jobs are claimed; zero claims nothing.
    pub max_bytes: usize,
    /// Actions that the worker runs, each with the most of its lanes that may run in the whole fleet
    /// (`None`: no limit). Jobs of other actions are left for workers that know them.
    pub actions: Vec<(Arc<str>, Arc<str>, Option<u32>)>,
    /// Most lanes that may run in the whole fleet (`None`: no limit).
    pub max_running_total: Option<u32>,
}

/// Response to a heartbeat.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HeartbeatResponse {
    /// The lease is renewed, counted from when the heartbeat was sent.
    Renewed {
        /// Claims whose jobs were cancelled, to be cut off.
        cancelled: Vec<ClaimToken>,
    },
    /// The lease has expired, and all claims of the worker with it.
    Expired,
}

/// Lanes of one action that hold jobs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LanesOfAction {
    /// The observer, `namespace/name`.
    pub observer: Arc<str>,
    /// The action's name.
    pub action: Arc<str>,
    /// Hashes of the lanes; `None` if there are too many.
    pub hashes: Option<Vec<u32>>,
}

/// First job of a lane, which blocks those behind it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LaneHead {
    /// Position of its event in the change log.
    pub log_id: i64,
    /// Id of its event.
    pub event_id: String,
    /// Number of attempts.
    pub attempts: u32,
    /// Error of the last attempt.
    pub error: Option<String>,
}

/// Statistics of one observer's jobs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct QueueStats {
    /// Jobs that have not ended.
    pub pending: u64,
    /// Jobs that can be claimed now.
    pub available: u64,
    /// Jobs that workers hold.
    pub running: u64,
    /// Jobs behind another of their lane.
    pub blocked: u64,
    /// Pending jobs with 0, 1, 2 to 3, 4 to 7, and 8 or more attempts.
    pub by_attempts: [u64; 5],
    /// Age in seconds of the oldest pending job.
    pub oldest_seconds: u64,
}

impl QueueStats {
    /// Jobs that are first of their lane, and whose time is still to come.
    #[must_use]
    pub const fn scheduled(&self) -> u64 {
        self.pending
            .saturating_sub(self.available + self.running + self.blocked)
    }
}

/// Result of [`JobQueue::run_maintenance`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MaintenanceReport {
    /// Claims that the reaper took from workers whose lease expired.
    pub expired_claims: u64,
}

/// Job queue of one listener.
#[async_trait]
pub trait JobQueue: Send + Sync + fmt::Debug {
    /// Kind of backend.
    fn backend(&self) -> BackendKind;

    /// Enqueues jobs, each at the end of its lane. The Postgres backend does so in the transaction. The
    /// Redis backend does so at once and skips jobs whose dedup key is pending or ended recently.
    async fn enqueue(&self, tx: &mut PgConnection, jobs: &[NewJob]) -> Result<(), QueueError>;

    /// Claims the first jobs of some lanes, with some of those behind them: by priority, then fairly
    /// over observers, actions and tenants, then by due time.
    async fn claim(
        &self,
        worker: WorkerId,
        request: &ClaimRequest,
    ) -> Result<Vec<LaneBatch>, QueueError>;

    /// Records the outcomes of claims and unblocks their lanes. Returns the claims whose results were
    /// stale, because their lease expired or their jobs are gone.
    async fn finish(
        &self,
        worker: WorkerId,
        finished: &[FinishedClaim],
        sink: &dyn DeadLetterSink,
    ) -> Result<Vec<ClaimToken>, QueueError>;

    /// Registers a worker under a human-readable name, with a lease from now on.
    async fn register(&self, worker: WorkerId, name: &str) -> Result<(), QueueError>;

    /// Renews a worker's lease.
    async fn heartbeat(&self, worker: WorkerId) -> Result<HeartbeatResponse, QueueError>;

    /// Deregisters a worker and releases its claims, which do not count as attempts.
    async fn deregister(&self, worker: WorkerId) -> Result<(), QueueError>;

    /// Runs periodic maintenance: reaps expired workers and keeps the queue small and fast. Every worker
    /// calls it about once a second; the calls share the work among themselves.
    async fn run_maintenance(&self) -> Result<MaintenanceReport, QueueError>;

    /// Returns the first job of each of these lanes in the given order, `None` where a lane is empty. At
    /// most [`MAX_LANES_PER_QUERY`] lanes.
    async fn lane_heads(&self, lanes: &[Lane]) -> Result<Vec<Option<LaneHead>>, QueueError>;

    /// Returns the lanes with jobs of some shards, by action. A lane belongs to shard
    /// `hash % shard_count`. An action with more than `max_lanes` lanes, in these shards or in all, has
    /// no hashes.
    async fn lanes_with_jobs(
        &self,
        shards: &[u16],
        shard_count: u16,
        max_lanes: usize,
    ) -> Result<Vec<LanesOfAction>, QueueError>;

    /// Returns statistics of each observer's jobs.
    async fn stats(&self) -> Result<Vec<(String, QueueStats)>, QueueError>;

    /// Returns the oldest jobs that match a filter, and how many match in all.
    async fn list(
        &self,
        filter: &JobFilter,
        limit: usize,
    ) -> Result<(Vec<JobView>, u64), QueueError>;

    /// Returns the jobs of these ids, pending and completed, each with its history. Costs nothing for
    /// jobs that are not asked for.
    async fn find(&self, ids: &[String]) -> Result<Vec<JobView>, QueueError>;

    /// Returns one job in full.
    async fn show(&self, id: &str) -> Result<Option<JobView>, QueueError> {
        self.show_of_tenant(id, None).await
    }

    /// Returns one job in full, if it is of this tenant where one is given.
    async fn show_of_tenant(
        &self,
        id: &str,
        tenant: Option<&str>,
    ) -> Result<Option<JobView>, QueueError>;

    /// Makes scheduled jobs that match a filter due now. Returns their number.
    async fn retry(&self, filter: &JobFilter) -> Result<u64, QueueError>;

    /// Cancels jobs that match a filter for good; running ones are cut off at their worker's next
    /// heartbeat. Returns their number.
    async fn cancel(&self, filter: &JobFilter) -> Result<u64, QueueError>;

    /// Whether no job is pending.
    async fn is_empty(&self) -> Result<bool, QueueError>;
}
