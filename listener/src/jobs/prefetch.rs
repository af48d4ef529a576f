//! Estimate of how many lanes a worker claims ahead.
//!
//! With jobs of a millisecond, a worker that claims only what it can start at once spends its time on
//! claims; with jobs of a minute, jobs that it claims ahead wait while other workers are idle.

use std::time::Duration;

use tokio::time::Instant;

/// Time within which jobs that are claimed ahead should start.
const TARGET_WAIT: Duration = Duration::from_millis(50);

/// Window over which the rate is measured.
const WINDOW: Duration = Duration::from_millis(250);

/// Most lanes that are claimed ahead.
const MAX_AHEAD: u32 = 512;

/// Estimator of the lanes to claim ahead, from the rate at which jobs finish.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct PrefetchEstimator {
    since: Option<Instant>,
    count: u32,
    /// Lanes to claim ahead.
    ahead: u32,
}

impl PrefetchEstimator {
    /// Counts a finished job.
    pub(crate) fn job_finished(&mut self, now: Instant) {
        let since = *self.since.get_or_insert(now);
        self.count = self.count.saturating_add(1);
        let took = now.saturating_duration_since(since);
        if took >= WINDOW {
            let ahead = f64::from(self.count) * (TARGET_WAIT.as_secs_f64() / took.as_secs_f64());
            #[allow(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "it is between 0 and a small bound"
            )]
            let ahead = ahead.min(f64::from(MAX_AHEAD)) as u32;
            *self = Self {
                since: Some(now),
                count: 0,
                ahead,
            };
        }
    }

    /// Returns the number of lanes to claim beyond those that can start at once.
    pub(crate) const fn ahead(&self) -> usize {
        self.ahead as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefetch_follows_the_rate() {
        let mut prefetch = PrefetchEstimator::default();
        let mut now = Instant::now();
        let mut at_rate = |per_second: u32| {
            for _ in 0..per_second.max(8) {
                now += Duration::from_secs(1) / per_second;
                prefetch.job_finished(now);
            }
            prefetch.ahead()
        };
        assert_eq!(at_rate(1), 0, "slow jobs are claimed when they can start");
        assert!((45..=55).contains(&at_rate(1000)));
        assert_eq!(at_rate(100_000), 512);
        assert!(at_rate(2) <= 1);
    }
}
