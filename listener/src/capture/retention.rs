//! Keeps the log from growing for ever: asks the database, now and then, to move on to the next
//! partition and to empty those that lie behind every checkpoint.

use std::time::Duration;

use crds::duration::HumanDuration;
use sqlx::PgPool;
use sqlx::postgres::types::PgInterval;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use crate::telemetry::metrics::Metrics;

/// How often. Several listeners may ask at once; all but one find it being done.
const EVERY: Duration = Duration::from_secs(10);

/// The log tells when retention has been kept from its work for so long.
const LONG: Duration = Duration::from_mins(10);

/// Maintains the log until `stop`. A failure is counted and the next round tries again.
pub async fn keep(pool: PgPool, retention: Duration, metrics: Metrics, stop: CancellationToken) {
    let mut ticks = tokio::time::interval(EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let microseconds = i64::try_from(retention.as_micros()).unwrap_or(i64::MAX);
    let keep = PgInterval {
        months: 0,
        days: 0,
        microseconds,
    };
    let mut blocked = Blocked::default();
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = ticks.tick() => {}
        }
        let tried = sqlx::query_scalar("select blocked from observer.apply_retention($1)")
            .bind(keep)
            .fetch_one(&pool)
            .await;
        let is_blocked = tried.unwrap_or_else(|error| {
            metrics
                .database_errors
                .with_label_values(&["apply_retention"])
                .inc();
            tracing::debug!(%error, "cannot maintain the log; trying again");
            true
        });
        let took = blocked.note(is_blocked, Instant::now());
        metrics
            .retention_blocked
            .set(i64::try_from(took.as_secs()).unwrap_or(i64::MAX));
        if blocked.is_to_be_told(took) {
            tracing::warn!(
                blocked_for = %HumanDuration::from_secs(took.as_secs()),
                "old events cannot be removed and the log grows: somebody holds a lock on its partitions, or the \
                 database fails; pg_locks and pg_stat_activity show who"
            );
        }
    }
}

/// For how long retention has been kept from its work.
#[derive(Debug, Default)]
struct Blocked {
    since: Option<Instant>,
    told: Duration,
}

impl Blocked {
    /// Notes how a round went, and returns for how long none went well.
    fn note(&mut self, is_blocked: bool, now: Instant) -> Duration {
        if !is_blocked {
            *self = Self::default();
            return Duration::ZERO;
        }
        now.saturating_duration_since(*self.since.get_or_insert(now))
    }

    /// Whether the log is to say so: after [`LONG`], and after each further one.
    fn is_to_be_told(&mut self, took: Duration) -> bool {
        let is_due = took >= self.told + LONG;
        if is_due {
            self.told = took;
        }
        is_due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocked_time_counts_until_a_round_goes_well() {
        let (mut blocked, now) = (Blocked::default(), Instant::now());
        let at = |minutes| now + Duration::from_mins(minutes);
        assert_eq!(blocked.note(true, at(0)), Duration::ZERO);
        let took = blocked.note(true, at(9));
        assert!(!blocked.is_to_be_told(took));
        let took = blocked.note(true, at(11));
        assert_eq!(took, Duration::from_mins(11));
        assert!(blocked.is_to_be_told(took) && !blocked.is_to_be_told(took));
        let took = blocked.note(true, at(22));
        assert!(blocked.is_to_be_told(took));
        assert_eq!(blocked.note(false, at(23)), Duration::ZERO);
        assert_eq!(blocked.note(true, at(30)), Duration::ZERO);
    }
}
