//! Retention of the change log: has the database rotate its partitions periodically, and empty those
//! that every checkpoint is past.

use std::time::Duration;

use crds::duration::HumanDuration;
use sqlx::PgPool;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use crate::database::interval;
use crate::telemetry::metrics::Metrics;

/// Time between two rounds. Several listeners may start one at once; all but one find it running.
const INTERVAL: Duration = Duration::from_secs(10);

/// A warning is logged each time that retention has been blocked for so long.
const WARN_AFTER: Duration = Duration::from_mins(10);

/// Applies retention periodically until `stop`. Counts a failure, and retries in the next round.
pub async fn run_retention(
    pool: PgPool,
    retention: Duration,
    metrics: Metrics,
    stop: CancellationToken,
) {
    let mut ticks = tokio::time::interval(INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut blocked = BlockedTime::default();
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = ticks.tick() => {}
        }
        let tried = sqlx::query_scalar("select blocked from observer.apply_retention($1)")
            .bind(interval(retention))
            .fetch_one(&pool)
            .await;
        let is_blocked = tried.unwrap_or_else(|error| {
            metrics
                .database_errors
                .with_label_values(&["apply_retention"])
                .inc();
            tracing::debug!(%error, "cannot apply retention to the change log; retrying");
            true
        });
        let took = blocked.record(is_blocked, Instant::now());
        metrics
            .retention_blocked
            .set(i64::try_from(took.as_secs()).unwrap_or(i64::MAX));
        if blocked.should_warn(took) {
            tracing::warn!(
                blocked_for = %HumanDuration::from_secs(took.as_secs()),
                "retention is blocked and the change log grows: a session holds a lock on its partitions, or the \
                 database fails; see pg_locks and pg_stat_activity"
            );
        }
    }
}

/// How long retention has been blocked.
#[derive(Debug, Default)]
struct BlockedTime {
    since: Option<Instant>,
    warned_after: Duration,
}

impl BlockedTime {
    /// Records how a round ended, and returns for how long none has succeeded.
    fn record(&mut self, is_blocked: bool, now: Instant) -> Duration {
        if !is_blocked {
            *self = Self::default();
            return Duration::ZERO;
        }
        now.saturating_duration_since(*self.since.get_or_insert(now))
    }

    /// Returns whether to warn: after [`WARN_AFTER`], and each time that it has passed again.
    fn should_warn(&mut self, took: Duration) -> bool {
        let is_due = took >= self.warned_after + WARN_AFTER;
        if is_due {
            self.warned_after = took;
        }
        is_due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocked_time_counts_until_a_round_succeeds() {
        let (mut blocked, now) = (BlockedTime::default(), Instant::now());
        let at = |minutes| now + Duration::from_mins(minutes);
        assert_eq!(blocked.record(true, at(0)), Duration::ZERO);
        let took = blocked.record(true, at(9));
        assert!(!blocked.should_warn(took));
        let took = blocked.record(true, at(11));
        assert_eq!(took, Duration::from_mins(11));
        assert!(blocked.should_warn(took) && !blocked.should_warn(took));
        let took = blocked.record(true, at(22));
        assert!(blocked.should_warn(took));
        assert_eq!(blocked.record(false, at(23)), Duration::ZERO);
        assert_eq!(blocked.record(true, at(30)), Duration::ZERO);
    }
}
