//! Keeps the log from growing for ever: asks the database, now and then, to move on to the next
//! partition and to empty those that lie behind every checkpoint.

use std::time::Duration;

use sqlx::PgPool;
use sqlx::postgres::types::PgInterval;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use crate::run::RunError;
use crate::telemetry::metrics::Metrics;

/// How often. Several listeners may ask at once; all but one find it being done.
const EVERY: Duration = Duration::from_secs(10);

/// Maintains the log until `stop`. A failure is counted and the next round tries again.
pub async fn keep(
    pool: PgPool,
    retention: Duration,
    metrics: Metrics,
    stop: CancellationToken,
) -> Result<(), RunError> {
    let mut ticks = tokio::time::interval(EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let microseconds = i64::try_from(retention.as_micros()).unwrap_or(i64::MAX);
    let keep = PgInterval {
        months: 0,
        days: 0,
        microseconds,
    };
    loop {
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            _ = ticks.tick() => {}
        }
        let tried = sqlx::query("select from observer.maintain($1)")
            .bind(keep)
            .execute(&pool)
            .await;
        if let Err(error) = tried {
            metrics
                .database_errors
                .with_label_values(&["maintain"])
                .inc();
            tracing::debug!(%error, "cannot maintain the log; trying again");
        }
    }
}
