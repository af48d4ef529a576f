//! Writer of checkpoints: retries while the database is unavailable.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use ::queue::JobQueue;
use backoff::Backoff;
use sqlx::PgPool;
use tokio::time::Instant;
use uuid::Uuid;

use crate::backfill::PageArrivals;
use crate::checkpoint::{CheckpointCommit, CheckpointError, CommitResult, write_commit};
use crate::delivery::event::Event;
use crate::telemetry::health::Health;
use crate::telemetry::metrics::Metrics;

/// Backoff of a commit that fails.
const RETRY: Backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(2));

/// What a commit wrote, and what it did not because other processes own the shards now.
#[derive(Debug)]
pub struct CommitReport {
    /// What was written.
    pub commit: CheckpointCommit,
    /// Shards that were fenced, with the epochs that were refused.
    pub fenced: BTreeMap<u16, i64>,
    /// Events that were retained for those; their new owners deliver them.
    pub fenced_events: Vec<Arc<Event>>,
}

/// Writer of the checkpoints of one listener in one process.
#[derive(Clone, Debug)]
pub struct CheckpointWriter {
    /// Connections.
    pub pool: PgPool,
    /// The job queue.
    pub queue: Arc<dyn JobQueue>,
    /// The listener.
    pub listener: Arc<str>,
    /// The server incarnation in which its shards were claimed.
    pub server_incarnation: Uuid,
    /// Is told when the database is unavailable, and when it is back.
    pub health: Arc<Health>,
    /// Is told how far rows of backfills are delivered.
    pub(crate) arrivals: Arc<PageArrivals>,
    /// The metrics.
    pub metrics: Metrics,
}

impl CheckpointWriter {
    /// Writes all of a commit but what other processes own now, and retries for as long as the database
    /// is unavailable. Fails only when the server has restarted, which makes the commit worthless.
    pub async fn write(
        self,
        mut commit: CheckpointCommit,
    ) -> Result<CommitReport, CheckpointError> {
        let mut backoff = RETRY;
        let (mut fenced, mut fenced_events) = (BTreeMap::new(), Vec::new());
        loop {
            // A response that never comes is a failure too.
            self.health.saved(false, Instant::now());
            let queue = self.queue.as_ref();
            match write_commit(
                &self.pool,
                queue,
                &self.listener,
                self.server_incarnation,
                &commit,
            )
            .await
            {
                Ok(CommitResult::Committed) => {
                    self.metrics.checkpoint_commits.inc();
                    self.health.saved(true, Instant::now());
                    break;
                }
                // Fewer are left each time.
                Ok(CommitResult::Fenced(shards)) => {
                    self.health.saved(true, Instant::now());
                    let refused = commit.epochs.iter().filter(|(n, _)| shards.contains(n));
                    fenced.extend(refused.map(|(shard, epoch)| (*shard, *epoch)));
                    fenced_events.extend(commit.drop_shards(&shards));
                    if commit.is_empty() {
                        break;
                    }
                    continue;
                }
                Err(error @ (CheckpointError::Database(_) | CheckpointError::Queue(_))) => {
                    self.metrics
                        .database_errors
                        .with_label_values(&["commit_checkpoint"])
                        .inc();
                    tracing::warn!(%error, "cannot save the checkpoint; retrying");
                }
                Err(error) => return Err(error),
            }
            tokio::time::sleep(backoff.next_delay()).await;
        }
        Ok(CommitReport {
            commit,
            fenced,
            fenced_events,
        })
    }
}
