//! Rate limiter: a token bucket by the generic cell rate algorithm (GCRA, ITU-T I.371), whose state is
//! one timestamp.

use std::time::Duration;

use crds::config::RateLimit;
use tokio::time::Instant;

/// Token bucket. It holds as many tokens as the limit names, and refills evenly.
#[derive(Debug)]
pub(crate) struct Gcra {
    /// Interval between two tokens.
    each: Duration,
    /// How far ahead of now `full` may be for one more.
    tolerance: Duration,
    /// When the bucket would be full again.
    full: Option<Instant>,
}

impl Gcra {
    /// Creates a full bucket.
    pub(crate) fn new(limit: RateLimit) -> Self {
        Self {
            each: limit.each(),
            tolerance: limit.tolerance(),
            full: None,
        }
    }

    /// Returns how long to wait for a token; nothing where there is one.
    pub(crate) fn delay(&self, now: Instant) -> Option<Duration> {
        let full = self.full.map_or(now, |full| full.max(now));
        let early = (full - now).saturating_sub(self.tolerance);
        (!early.is_zero()).then_some(early)
    }

    /// Takes a token; the caller has checked that there is one.
    pub(crate) fn acquire(&mut self, now: Instant) {
        let full = self.full.map_or(now, |full| full.max(now));
        self.full = Some(full + self.each);
    }

    /// Returns how many tokens there are, and when there is one more.
    pub(crate) fn peek(&self, now: Instant) -> (u32, Instant) {
        let ahead = self
            .full
            .map_or(Duration::ZERO, |full| full.saturating_duration_since(now));
        let Some(left) = self.tolerance.checked_sub(ahead) else {
            return (0, now + ahead.saturating_sub(self.tolerance));
        };
        let each = self.each.as_nanos().max(1);
        let tokens = left.as_nanos() / each + 1;
        (u32::try_from(tokens).unwrap_or(u32::MAX), now)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn bucket_bursts_and_refills_evenly() {
        let mut now = Instant::now();
        let mut bucket = Gcra::new(RateLimit {
            attempts: 10,
            per: Duration::from_secs(1),
        });
        for left in (0..10).rev() {
            assert_eq!(bucket.delay(now), None);
            bucket.acquire(now);
            assert_eq!(bucket.peek(now).0, left);
        }
        let each = Duration::from_millis(100);
        assert_eq!(bucket.delay(now), Some(each));
        assert_eq!(bucket.peek(now), (0, now + each));
        now += each;
        bucket.acquire(now);
        assert!(bucket.delay(now).is_some());
        now += Duration::from_mins(1);
        assert_eq!(bucket.peek(now).0, 10);
    }

    proptest! {
        /// In no window of the limit's length are there more than twice as many, in none from the
        /// beginning on more than the limit and what came back since.
        #[test]
        fn no_more_than_it_allows(
            attempts in 1_u32..50,
            per in 1_u64..10_000,
            steps in proptest::collection::vec(0_u64..500, 1..300),
        ) {
            let limit = RateLimit { attempts, per: Duration::from_millis(per) };
            let mut bucket = Gcra::new(limit);
            let begun = Instant::now();
            let mut now = begun;
            let mut taken = 0_u32;
            for step in steps {
                now += Duration::from_millis(step);
                let (room, _) = bucket.peek(now);
                let wait = bucket.delay(now);
                prop_assert_eq!(room > 0, wait.is_none());
                if let Some(wait) = wait {
                    prop_assert!(wait <= limit.per);
                    prop_assert!(bucket.peek(now + wait).0 > 0);
                } else {
                    bucket.acquire(now);
                    taken += 1;
                }
                let back = (now - begun).as_secs_f64() / limit.per.as_secs_f64() * f64::from(attempts);
                prop_assert!(f64::from(taken) <= f64::from(attempts) + back + 1e-3);
            }
        }
    }
}
