//! Destination of jobs that are given up.

use async_trait::async_trait;
use sqlx::PgConnection;

use crate::FinishedClaim;

/// Sink for jobs that end as dead letters.
#[async_trait]
pub trait DeadLetterSink: Send + Sync {
    /// Writes the dead letters of claims that end with [`JobOutcome::Discarded`](crate::JobOutcome). The
    /// Postgres backend removes their jobs in the same transaction. Idempotent: writing a dead letter
    /// again changes nothing.
    async fn write(
        &self,
        tx: &mut PgConnection,
        discarded: &[&FinishedClaim],
    ) -> Result<(), sqlx::Error>;
}
