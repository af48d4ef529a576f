//! Tells how the jobs of a listener are doing. One process of the fleet does: the one that owns
//! the first shard.

use std::sync::Arc;
use std::time::Duration;

use ::queue::{JobQueue, QueueStats};
use tokio::time::{Instant, sleep, timeout};

use crate::telemetry::metrics::Jobs;
use crate::telemetry::status::Reporter;

/// Shortest pause between two looks.
const PAUSE: Duration = Duration::from_secs(10);

/// How long a look may take.
const LONGEST: Duration = Duration::from_mins(1);

/// A look that takes long is followed by a pause so many times as long.
const REST: u32 = 20;

/// Names of the numbers of attempts that are told apart.
const ATTEMPTS: [&str; 5] = ["0", "1", "2-3", "4-7", "8+"];

/// Tells for as long as it is let.
pub(crate) async fn tell(queue: Arc<dyn JobQueue>, reporter: Arc<Reporter>, jobs: Jobs) {
    loop {
        let begun = Instant::now();
        if reporter.owns(0) {
            match timeout(LONGEST, queue.stats()).await {
                Ok(Ok(figures)) => show(&jobs, &figures),
                Ok(Err(error)) => tracing::debug!(%error, "cannot count the jobs; trying again"),
                Err(_) => tracing::debug!("counting the jobs takes too long"),
            }
        } else {
            show(&jobs, &[]);
        }
        sleep(PAUSE.max(begun.elapsed() * REST)).await;
    }
}

fn show(jobs: &Jobs, figures: &[(String, QueueStats)]) {
    let number = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
    // Observers without jobs are not told of any more.
    jobs.pending.reset();
    jobs.by_attempts.reset();
    jobs.oldest.reset();
    for (observer, figures) in figures {
        let states = [
            ("available", figures.available),
            ("scheduled", figures.scheduled()),
            ("running", figures.running),
            ("blocked", figures.blocked),
        ];
        for (state, count) in states {
            let pending = jobs.pending.with_label_values(&[&**observer, state]);
            pending.set(number(count));
        }
        for (attempts, count) in ATTEMPTS.iter().zip(figures.by_attempts) {
            let by_attempts = &jobs.by_attempts;
            let by_attempts = by_attempts.with_label_values(&[&**observer, *attempts]);
            by_attempts.set(number(count));
        }
        let oldest = jobs.oldest.with_label_values(&[&**observer]);
        oldest.set(number(figures.oldest_seconds));
    }
}
