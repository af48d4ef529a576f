//! Periodic report of queue statistics as metrics. One process of the fleet reports: the owner of the
//! first shard.

use std::sync::Arc;
use std::time::Duration;

use ::queue::{JobQueue, JobState, QueueStats};
use tokio::time::{Instant, sleep, timeout};

use crate::telemetry::metrics::JobMetrics;
use crate::telemetry::status::StatusReporter;

/// Shortest interval between two queries.
const MIN_INTERVAL: Duration = Duration::from_secs(10);

/// Timeout of a query.
const QUERY_TIMEOUT: Duration = Duration::from_mins(1);

/// Interval after a slow query, as a multiple of its duration.
const SLOW_QUERY_FACTOR: u32 = 20;

/// Label values of [`QueueStats::by_attempts`].
const ATTEMPTS: [&str; 5] = ["0", "1", "2-3", "4-7", "8+"];

/// Reports statistics until it is dropped.
pub(crate) async fn report(
    queue: Arc<dyn JobQueue>,
    reporter: Arc<StatusReporter>,
    metrics: JobMetrics,
) {
    loop {
        let began = Instant::now();
        if reporter.owns(0) {
            match timeout(QUERY_TIMEOUT, queue.stats()).await {
                Ok(Ok(stats)) => publish(&metrics, &stats),
                Ok(Err(error)) => {
                    tracing::debug!(%error, "cannot query queue statistics; retrying");
                }
                Err(_) => tracing::debug!("query of queue statistics timed out"),
            }
        } else {
            publish(&metrics, &[]);
        }
        sleep(MIN_INTERVAL.max(began.elapsed() * SLOW_QUERY_FACTOR)).await;
    }
}

fn publish(metrics: &JobMetrics, stats: &[(String, QueueStats)]) {
    let number = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
    // Observers without jobs have no series.
    metrics.pending.reset();
    metrics.by_attempts.reset();
    metrics.oldest_age.reset();
    for (observer, stats) in stats {
        let counts = [
            (JobState::Available, stats.available),
            (JobState::Scheduled, stats.scheduled()),
            (JobState::Running, stats.running),
            (JobState::Blocked, stats.blocked),
        ];
        for (state, count) in counts {
            let labels = [&**observer, state.as_str()];
            let pending = metrics.pending.with_label_values(&labels);
            pending.set(number(count));
        }
        for (attempts, count) in ATTEMPTS.iter().zip(stats.by_attempts) {
            let by_attempts = &metrics.by_attempts;
            let by_attempts = by_attempts.with_label_values(&[&**observer, *attempts]);
            by_attempts.set(number(count));
        }
        let oldest_age = metrics.oldest_age.with_label_values(&[&**observer]);
        oldest_age.set(number(stats.oldest_seconds));
    }
}
