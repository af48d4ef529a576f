//! Exponential backoff. Nothing here sleeps or draws random numbers: the caller waits, and passes
//! randomness in.

use std::time::Duration;

/// Largest share by which jitter lengthens a delay.
const JITTER: f64 = 0.25;

/// Exponential backoff: the delay doubles with each failure in a row, up to a maximum.
///
/// A constant of this type is a policy; a copy of it counts the failures of one operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    initial: Duration,
    max: Duration,
    failures: u32,
}

impl Backoff {
    /// Creates a backoff that has seen no failure.
    #[must_use]
    pub const fn new(initial: Duration, max: Duration) -> Self {
        Self {
            initial,
            max,
            failures: 0,
        }
    }

    /// Returns the longest delay, without jitter.
    #[must_use]
    pub const fn max(&self) -> Duration {
        self.max
    }

    /// Counts a failure, and returns the delay before the next attempt.
    #[must_use]
    pub fn next_delay(&mut self) -> Duration {
        let factor = 2_u32.saturating_pow(self.failures);
        self.failures = self.failures.saturating_add(1);
        self.initial.saturating_mul(factor).min(self.max)
    }

    /// Ends the row of failures after a success.
    pub const fn reset(&mut self) {
        self.failures = 0;
    }
}

/// Lengthens a delay by up to a quarter, so that what failed together is not attempted again together.
/// `random` is between 0 and 1.
#[must_use]
pub fn with_jitter(delay: Duration, random: f64) -> Duration {
    delay.mul_f64(1.0 + JITTER * random.clamp(0.0, 1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn delays_double_up_to_the_maximum_until_a_reset() {
        let mut backoff = Backoff::new(SECOND, 10 * SECOND);
        let seconds: Vec<u64> = (0..6).map(|_| backoff.next_delay().as_secs()).collect();
        assert_eq!(seconds, [1, 2, 4, 8, 10, 10]);
        backoff.reset();
        assert_eq!(backoff.next_delay(), SECOND);
    }

    #[test]
    fn many_failures_do_not_overflow() {
        let mut backoff = Backoff::new(SECOND, Duration::MAX);
        let longest = (0..200).map(|_| backoff.next_delay()).max();
        assert!(longest >= Some(SECOND * u32::MAX));
        let mut bounded = Backoff::new(SECOND, 10 * SECOND);
        assert_eq!(
            (0..200).map(|_| bounded.next_delay()).last(),
            Some(10 * SECOND)
        );
    }

    #[test]
    fn jitter_lengthens_a_delay_by_up_to_a_quarter() {
        assert_eq!(with_jitter(4 * SECOND, 0.0), 4 * SECOND);
        assert_eq!(with_jitter(4 * SECOND, 1.0), 5 * SECOND);
        assert_eq!(with_jitter(4 * SECOND, 7.0), 5 * SECOND);
    }
}
