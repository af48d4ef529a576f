//! Retention and metrics of dead letters, and retention of processed deliveries and of the audit. One process of the fleet
//! does this: the owner of the first shard.

use std::sync::Arc;
use std::time::Duration;

use sqlx::PgPool;
use tokio::time::{Instant, sleep, timeout};

use crate::actions::postgres;
use crate::audit;
use crate::database;
use crate::telemetry::metrics::Metrics;
use crate::telemetry::status::StatusReporter;

/// Shortest interval between two runs.
const MIN_INTERVAL: Duration = Duration::from_secs(10);

/// Timeout of a run.
const RUN_TIMEOUT: Duration = Duration::from_mins(1);

/// Interval after a slow run, as a multiple of its duration.
const SLOW_RUN_FACTOR: u32 = 20;

/// Time after a start before processed deliveries are purged.
const PURGE_DELAY: Duration = Duration::from_hours(1);

/// Interval between two purges of the audit and of sessions of the console that are over.
const AUDIT_INTERVAL: Duration = Duration::from_hours(1);

/// Most dead letters that one statement deletes.
const DELETE_LIMIT: i64 = 1000;

/// Applies retention and reports metrics until it is dropped.
pub(crate) async fn run_retention(
    pool: PgPool,
    listener: Arc<str>,
    retention: Option<Duration>,
    reporter: Arc<StatusReporter>,
    metrics: Metrics,
) {
    let started = Instant::now();
    let mut audit_due = started;
    loop {
        let began = Instant::now();
        if reporter.owns(0) {
            // Deliveries in flight when the last process ended have been attempted again by then.
            if started.elapsed() > PURGE_DELAY
                && let Err(error) = postgres::purge_processed(&pool, &listener).await
            {
                tracing::debug!(%error, "cannot purge processed deliveries; retrying");
            }
            if audit_due <= began {
                let purge = async {
                    let sessions = console::delete_expired(&pool, &listener).await;
                    audit::purge(&pool, &listener).await.and(sessions)
                };
                match timeout(RUN_TIMEOUT, purge).await {
                    Ok(Ok(())) => audit_due = began + AUDIT_INTERVAL,
                    Ok(Err(error)) => {
                        tracing::debug!(%error, "cannot purge the audit, or sessions that are over; retrying");
                    }
                    Err(_) => tracing::debug!("purge of the audit timed out"),
                }
            }
            let run = run_once(&pool, &listener, retention, &metrics);
            match timeout(RUN_TIMEOUT, run).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => {
                    let errors = &metrics.database_errors;
                    errors.with_label_values(&["maintain_dead_letters"]).inc();
                    tracing::debug!(%error, "cannot apply the retention of dead letters; retrying");
                }
                Err(_) => tracing::debug!("retention of dead letters timed out"),
            }
        } else {
            metrics.dead_letters.reset();
            metrics.dead_letters_oldest_age.reset();
        }
        sleep(MIN_INTERVAL.max(began.elapsed() * SLOW_RUN_FACTOR)).await;
    }
}

async fn run_once(
    pool: &PgPool,
    listener: &str,
    retention: Option<Duration>,
    metrics: &Metrics,
) -> Result<(), sqlx::Error> {
    if let Some(retention) = retention {
        loop {
            let deleted = expire(pool, listener, retention).await?;
            metrics.dead_letters_expired.inc_by(deleted);
            if deleted == 0 {
                break;
            }
            tracing::info!(
                deleted,
                "deleted dead letters older than deadLetters.retention"
            );
        }
    }
    let counted: Vec<(String, String, i64, i64)> = sqlx::query_as(
        "select observer, error_kind, count(*), extract(epoch from clock_timestamp() - min(created_at))::bigint
         from observer.dead_letter where listener = $1 group by observer, error_kind",
    )
    .bind(listener)
    .fetch_all(pool)
    .await?;
    // Observers without dead letters have no series.
    metrics.dead_letters.reset();
    metrics.dead_letters_oldest_age.reset();
    for (observer, kind, count, oldest) in counted {
        let letters = metrics.dead_letters.with_label_values(&[&observer, &kind]);
        letters.set(count);
        let age = metrics
            .dead_letters_oldest_age
            .with_label_values(&[&observer]);
        age.set(age.get().max(oldest));
    }
    Ok(())
}

/// Deletes some dead letters older than `retention`, except those with a redrive requested. Returns how
/// many.
async fn expire(pool: &PgPool, listener: &str, retention: Duration) -> Result<u64, sqlx::Error> {
    let deleted = sqlx::query(
        "delete from observer.dead_letter where id = any(array(
             select id from observer.dead_letter
             where listener = $1 and created_at < clock_timestamp() - $2 and redrive_requested_at is null
             order by created_at limit $3))",
    )
    .bind(listener)
    .bind(database::interval(retention))
    .bind(DELETE_LIMIT)
    .execute(pool)
    .await?;
    Ok(deleted.rows_affected())
}
