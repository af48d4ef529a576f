//! Writes one save at a time, and tries again while the database is away.

use std::sync::Arc;
use std::time::Duration;

use sqlx::PgPool;
use tokio::time::Instant;

use crate::api::health::Health;
use crate::checkpoint::{CheckpointError, Save, save};
use crate::source::log::Tenure;
use crate::telemetry::metrics::Metrics;

/// Wait before the first further try.
const FIRST_WAIT: Duration = Duration::from_millis(50);

/// Longest wait between two tries.
const LONGEST_WAIT: Duration = Duration::from_secs(2);

/// Saves for one holder of one listener.
#[derive(Clone, Debug)]
pub struct Saver {
    /// Connections.
    pub pool: PgPool,
    /// By what right it saves.
    pub tenure: Tenure,
    /// Told when the database is away and back.
    pub health: Arc<Health>,
    /// Counts.
    pub metrics: Metrics,
}

impl Saver {
    /// Saves, however long the database is away or says no; gives up only when another process or
    /// another life of the server has made the save worthless.
    pub async fn save(self, what: Save) -> Result<Save, CheckpointError> {
        let mut wait = FIRST_WAIT;
        loop {
            // An answer that never comes is a failure too.
            self.health.saved(false, Instant::now());
            match save(&self.pool, &self.tenure, &what).await {
                Ok(()) => {
                    self.metrics.saves.inc();
                    self.health.saved(true, Instant::now());
                    return Ok(what);
                }
                Err(CheckpointError::Database(error)) => {
                    self.metrics
                        .database_errors
                        .with_label_values(&["save"])
                        .inc();
                    tracing::warn!(%error, "cannot save the checkpoint; trying again");
                }
                Err(error) => return Err(error),
            }
            tokio::time::sleep(wait).await;
            wait = (wait * 2).min(LONGEST_WAIT);
        }
    }
}
