//! Counts dead letters, and drops those that were kept for as long as they are to be; also forgets
//! effects of long ago. One process of the fleet does: the one that owns the first shard.

use std::sync::Arc;
use std::time::Duration;

use sqlx::PgPool;
use sqlx::postgres::types::PgInterval;
use tokio::time::{Instant, sleep, timeout};

use crate::actions::postgres;
use crate::telemetry::metrics::Metrics;
use crate::telemetry::status::Reporter;

/// Shortest pause between two looks.
const PAUSE: Duration = Duration::from_secs(10);

/// How long a look may take.
const LONGEST: Duration = Duration::from_mins(1);

/// A look that takes long is followed by a pause so many times as long.
const REST: u32 = 20;

/// How long after a start what took effect long ago may be forgotten.
const SETTLED: Duration = Duration::from_hours(1);

/// Most dead letters that are dropped by one statement.
const DROPPED_AT_ONCE: i64 = 1000;

/// Does so for as long as it is let.
pub(crate) async fn keep(
    pool: PgPool,
    listener: Arc<str>,
    retention: Option<Duration>,
    reporter: Arc<Reporter>,
    metrics: Metrics,
) {
    let started = Instant::now();
    loop {
        let begun = Instant::now();
        if reporter.owns(0) {
            // What was under way when the last process ended has been attempted again by then.
            if started.elapsed() > SETTLED
                && let Err(error) = postgres::purge_processed(&pool, &listener).await
            {
                tracing::debug!(%error, "cannot forget effects of long ago; trying again");
            }
            let look = look(&pool, &listener, retention, &metrics);
            match timeout(LONGEST, look).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => {
                    let errors = &metrics.database_errors;
                    errors.with_label_values(&["dead_letters"]).inc();
                    tracing::debug!(%error, "cannot see to the dead letters; trying again");
                }
                Err(_) => tracing::debug!("seeing to the dead letters takes too long"),
            }
        } else {
            metrics.letters.reset();
            metrics.oldest_letter.reset();
        }
        sleep(PAUSE.max(begun.elapsed() * REST)).await;
    }
}

async fn look(
    pool: &PgPool,
    listener: &str,
    retention: Option<Duration>,
    metrics: &Metrics,
) -> Result<(), sqlx::Error> {
    if let Some(retention) = retention {
        loop {
            let dropped = expire(pool, listener, retention).await?;
            metrics.expired_letters.inc_by(dropped);
            if dropped == 0 {
                break;
            }
            tracing::info!(
                dropped,
                "dropped dead letters that were kept for as long as deadLetters.retention says"
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
    // Observers without any are not told of any more.
    metrics.letters.reset();
    metrics.oldest_letter.reset();
    for (observer, kind, count, oldest) in counted {
        let letters = metrics.letters.with_label_values(&[&observer, &kind]);
        letters.set(count);
        let age = metrics.oldest_letter.with_label_values(&[&observer]);
        age.set(age.get().max(oldest));
    }
    Ok(())
}

/// Drops some that were given up longer ago than `retention`. Those that a redrive waits for stay.
/// Returns how many.
async fn expire(pool: &PgPool, listener: &str, retention: Duration) -> Result<u64, sqlx::Error> {
    let retention = PgInterval {
        months: 0,
        days: 0,
        microseconds: i64::try_from(retention.as_micros()).unwrap_or(i64::MAX),
    };
    let dropped = sqlx::query(
        "delete from observer.dead_letter where id = any(array(
             select id from observer.dead_letter
             where listener = $1 and created_at < clock_timestamp() - $2 and redrive_requested_at is null
             order by created_at limit $3))",
    )
    .bind(listener)
    .bind(retention)
    .bind(DROPPED_AT_ONCE)
    .execute(pool)
    .await?;
    Ok(dropped.rows_affected())
}
