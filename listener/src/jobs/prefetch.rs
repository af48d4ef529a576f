//! How far ahead of its work a worker claims.
//!
//! Where jobs take a millisecond, a worker that claims just what it can begin spends its time
//! asking; where they take a minute, whatever it claims ahead waits in the wrong place.

use std::time::Duration;

use tokio::time::Instant;

/// What is claimed ahead is begun within about this time.
const AHEAD: Duration = Duration::from_millis(50);

/// Over how long the rate is measured.
const WINDOW: Duration = Duration::from_millis(250);

/// Most that is claimed ahead.
const MOST: u32 = 512;

/// Counts what ends.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct PrefetchEstimator {
    since: Option<Instant>,
    count: u32,
    /// Lanes to claim ahead.
    ahead: u32,
}

impl PrefetchEstimator {
    /// A job has ended.
    pub(crate) fn ended(&mut self, now: Instant) {
        let since = *self.since.get_or_insert(now);
        self.count = self.count.saturating_add(1);
        let took = now.saturating_duration_since(since);
        if took >= WINDOW {
            let ahead = f64::from(self.count) * (AHEAD.as_secs_f64() / took.as_secs_f64());
            #[allow(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "it is between 0 and a small bound"
            )]
            let ahead = ahead.min(f64::from(MOST)) as u32;
            *self = Self {
                since: Some(now),
                count: 0,
                ahead,
            };
        }
    }

    /// How many lanes to claim beyond those that can be begun at once.
    pub(crate) const fn ahead(&self) -> usize {
        self.ahead as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_claimed_ahead_follows_the_rate() {
        let mut prefetch = PrefetchEstimator::default();
        let mut now = Instant::now();
        let mut at_rate = |per_second: u32| {
            for _ in 0..per_second.max(8) {
                now += Duration::from_secs(1) / per_second;
                prefetch.ended(now);
            }
            prefetch.ahead()
        };
        assert_eq!(
            at_rate(1),
            0,
            "slow jobs are claimed when they can be begun"
        );
        assert!((45..=55).contains(&at_rate(1000)));
        assert_eq!(at_rate(100_000), 512);
        assert!(at_rate(2) <= 1);
    }
}
