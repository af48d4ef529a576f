//! Writes one save at a time, and tries again while the database is away.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use ::queue::JobQueue;
use backoff::Backoff;
use sqlx::PgPool;
use tokio::time::Instant;
use uuid::Uuid;

use crate::checkpoint::{CheckpointError, Save, Saved, save};
use crate::delivery::event::Event;
use crate::telemetry::health::Health;
use crate::telemetry::metrics::Metrics;

/// Backoff of a commit that fails.
const RETRY: Backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(2));

/// What was written, and what was not because others have claimed it.
#[derive(Debug)]
pub struct Written {
    /// What was written.
    pub what: Save,
    /// Shards of which nothing was, with the epochs that were refused.
    pub fenced: BTreeMap<u16, i64>,
    /// Events of those, which the shards' new owners see to.
    pub left_out: Vec<Arc<Event>>,
}

/// Saves for one process of one listener.
#[derive(Clone, Debug)]
pub struct Saver {
    /// Connections.
    pub pool: PgPool,
    /// Where jobs are kept.
    pub queue: Arc<dyn JobQueue>,
    /// The listener.
    pub listener: Arc<str>,
    /// The life of the server in which its shards were claimed.
    pub life: Uuid,
    /// Told when the database is away and back.
    pub health: Arc<Health>,
    /// Counts.
    pub metrics: Metrics,
}

impl Saver {
    /// Saves, however long the database is away or says no, all but what other processes have
    /// claimed. Gives up only when another life of the server has made the save worthless.
    pub async fn save(self, mut what: Save) -> Result<Written, CheckpointError> {
        let mut backoff = RETRY;
        let (mut fenced, mut left_out) = (BTreeMap::new(), Vec::new());
        loop {
            // An answer that never comes is a failure too.
            self.health.saved(false, Instant::now());
            let queue = self.queue.as_ref();
            match save(&self.pool, queue, &self.listener, self.life, &what).await {
                Ok(Saved::Done) => {
                    self.metrics.checkpoint_commits.inc();
                    self.health.saved(true, Instant::now());
                    break;
                }
                // Fewer are left each time.
                Ok(Saved::Fenced(shards)) => {
                    self.health.saved(true, Instant::now());
                    let refused = what.epochs.iter().filter(|(n, _)| shards.contains(n));
                    fenced.extend(refused.map(|(shard, epoch)| (*shard, *epoch)));
                    left_out.extend(what.leave_out(&shards));
                    if what.is_empty() {
                        break;
                    }
                    continue;
                }
                Err(error @ (CheckpointError::Database(_) | CheckpointError::Queue(_))) => {
                    self.metrics
                        .database_errors
                        .with_label_values(&["commit_checkpoint"])
                        .inc();
                    tracing::warn!(%error, "cannot save the checkpoint; trying again");
                }
                Err(error) => return Err(error),
            }
            tokio::time::sleep(backoff.next_delay()).await;
        }
        Ok(Written {
            what,
            fenced,
            left_out,
        })
    }
}
