//! Rate limiter: a token bucket by the generic cell rate algorithm (GCRA, ITU-T I.371), whose state is
//! one timestamp.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::time::Instant;

use crate::registry::lock;

/// Requests of one bearer: a burst of 100, and 50 a second.
const REQUESTS: (u32, Duration) = (100, Duration::from_secs(2));

/// Requests with tokens that are not known: a burst of 100, and 10 a second, from all clients together. Tokens that
/// are known are admitted besides.
const UNKNOWN_TOKENS: (u32, Duration) = (100, Duration::from_secs(10));

/// Interval of log lines of one kind.
const LOG_INTERVAL: Duration = Duration::from_secs(10);

/// Token bucket. It holds as many tokens as the limit names, and refills evenly.
#[derive(Debug)]
pub struct Gcra {
    /// Interval between two tokens.
    each: Duration,
    /// How far ahead of now `full` may be for one more.
    tolerance: Duration,
    /// When the bucket would be full again.
    full: Option<Instant>,
}

impl Gcra {
    /// Creates a full bucket of so many tokens, at least 1, which refills within this time.
    #[must_use]
    pub fn new(tokens: u32, within: Duration) -> Self {
        let each = within / tokens.max(1);
        Self {
            each,
            tolerance: within.saturating_sub(each),
            full: None,
        }
    }

    /// Returns how long to wait for a token; nothing where there is one.
    #[must_use]
    pub fn delay(&self, now: Instant) -> Option<Duration> {
        let full = self.full.map_or(now, |full| full.max(now));
        let early = (full - now).saturating_sub(self.tolerance);
        (!early.is_zero()).then_some(early)
    }

    /// Takes a token; the caller has checked that there is one.
    pub fn acquire(&mut self, now: Instant) {
        let full = self.full.map_or(now, |full| full.max(now));
        self.full = Some(full + self.each);
    }

    /// Returns how many tokens there are, and when there is one more.
    #[must_use]
    pub fn peek(&self, now: Instant) -> (u32, Instant) {
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

/// Rate limit, shared by all requests that it counts together.
#[derive(Clone, Debug)]
pub struct Limiter(Arc<Mutex<Gcra>>);

impl Limiter {
    /// Creates the limiter of one bearer's requests.
    #[must_use]
    pub fn of_requests() -> Self {
        Self::new(REQUESTS)
    }

    /// Creates the limiter of requests with tokens that are not known.
    #[must_use]
    pub fn of_unknown_tokens() -> Self {
        Self::new(UNKNOWN_TOKENS)
    }

    fn new((requests, within): (u32, Duration)) -> Self {
        Self(Arc::new(Mutex::new(Gcra::new(requests, within))))
    }

    /// Counts one more, or returns how long it has to wait.
    pub fn admit(&self) -> Result<(), Duration> {
        let now = Instant::now();
        let mut bucket = lock(&self.0);
        if let Some(delay) = bucket.delay(now) {
            return Err(delay);
        }
        bucket.acquire(now);
        Ok(())
    }
}

/// Counts what is logged at most once in a while.
#[derive(Debug, Default)]
pub struct LogLimit(Mutex<Unlogged>);

#[derive(Debug, Default)]
struct Unlogged {
    count: u64,
    logged_at: Option<Instant>,
}

impl LogLimit {
    /// Counts one more. Returns how many there were since the last line, if it is time for one.
    #[must_use]
    pub fn count(&self, now: Instant) -> Option<u64> {
        let mut unlogged = lock(&self.0);
        unlogged.count += 1;
        let is_time = unlogged.logged_at.is_none_or(|at| now - at >= LOG_INTERVAL);
        is_time.then(|| {
            unlogged.logged_at = Some(now);
            std::mem::take(&mut unlogged.count)
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn bucket_bursts_and_refills_evenly() {
        let mut now = Instant::now();
        let mut bucket = Gcra::new(10, Duration::from_secs(1));
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

    #[tokio::test(start_paused = true)]
    async fn bearer_has_a_burst_and_then_an_even_rate() {
        let limiter = Limiter::of_requests();
        assert!((0..100).all(|_| limiter.admit().is_ok()));
        assert_eq!(limiter.admit(), Err(Duration::from_millis(20)));
        tokio::time::advance(Duration::from_secs(1)).await;
        assert!((0..50).all(|_| limiter.admit().is_ok()));
        assert!(limiter.admit().is_err());
    }

    #[test]
    fn lines_are_rare_and_say_how_many_there_were() {
        let (limit, now) = (LogLimit::default(), Instant::now());
        assert_eq!(limit.count(now), Some(1));
        assert_eq!(limit.count(now), None);
        assert_eq!(limit.count(now + LOG_INTERVAL), Some(2));
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
            let per = Duration::from_millis(per);
            let mut bucket = Gcra::new(attempts, per);
            let begun = Instant::now();
            let mut now = begun;
            let mut taken = 0_u32;
            for step in steps {
                now += Duration::from_millis(step);
                let (room, _) = bucket.peek(now);
                let wait = bucket.delay(now);
                prop_assert_eq!(room > 0, wait.is_none());
                if let Some(wait) = wait {
                    prop_assert!(wait <= per);
                    prop_assert!(bucket.peek(now + wait).0 > 0);
                } else {
                    bucket.acquire(now);
                    taken += 1;
                }
                let back = (now - begun).as_secs_f64() / per.as_secs_f64() * f64::from(attempts);
                prop_assert!(f64::from(taken) <= f64::from(attempts) + back + 1e-3);
            }
        }
    }
}
