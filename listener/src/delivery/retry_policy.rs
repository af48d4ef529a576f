//! Retry policy: the delays between attempts.

use std::time::Duration;

use crds::config::Retry;

/// Returns the delay after attempt number `attempt` (1 for the first); `None` if no attempt is left.
///
/// Exponential with full jitter (all of it is drawn, up to the bound: see Brooker, "Exponential
/// Backoff And Jitter", 2015), so that what failed together does not come back together, and a
/// endpoint that has recovered is not overloaded. `random` is drawn from 0 to 1. A delay that the
/// endpoint asked for is the minimum, up to the longest one allowed.
#[must_use]
pub fn wait(retry: &Retry, attempt: u32, named: Option<Duration>, random: f64) -> Option<Duration> {
    if attempt >= retry.attempts {
        return None;
    }
    let doubled = 2_u32.saturating_pow(attempt.saturating_sub(1));
    let bound = retry
        .initial_backoff
        .saturating_mul(doubled)
        .min(retry.max_backoff);
    let jittered = bound.mul_f64(random.clamp(0.0, 1.0));
    Some(
        jittered
            .max(named.unwrap_or_default())
            .min(retry.max_backoff),
    )
}

/// Returns how much of the deadline is left to a delivery of this age; `None` without a deadline.
#[must_use]
pub fn remaining_deadline(retry: &Retry, age: Duration) -> Option<Duration> {
    retry.deadline.map(|deadline| deadline.saturating_sub(age))
}

#[cfg(test)]
mod tests {
    use super::*;

    const RETRY: Retry = Retry {
        attempts: 5,
        initial_backoff: Duration::from_secs(1),
        max_backoff: Duration::from_secs(6),
        deadline: None,
    };

    #[test]
    fn delays_double_up_to_the_maximum() {
        let waits: Vec<_> = (1..=5)
            .map(|attempt| wait(&RETRY, attempt, None, 1.0))
            .collect();
        let seconds = |s| Some(Duration::from_secs(s));
        assert_eq!(
            waits,
            [seconds(1), seconds(2), seconds(4), seconds(6), None]
        );
    }

    #[test]
    fn jitter_covers_the_whole_delay() {
        assert_eq!(wait(&RETRY, 1, None, 0.0), Some(Duration::ZERO));
        assert_eq!(wait(&RETRY, 1, None, 0.5), Some(Duration::from_millis(500)));
    }

    #[test]
    fn requested_delay_is_honoured_within_bounds() {
        assert_eq!(
            wait(&RETRY, 1, Some(Duration::from_secs(3)), 0.0),
            Some(Duration::from_secs(3))
        );
        assert_eq!(
            wait(&RETRY, 1, Some(Duration::from_hours(1)), 0.0),
            Some(RETRY.max_backoff)
        );
    }

    #[test]
    fn large_attempt_numbers_do_not_overflow() {
        let endless = Retry {
            attempts: u32::MAX,
            ..RETRY
        };
        assert_eq!(
            wait(&endless, u32::MAX - 1, None, 1.0),
            Some(RETRY.max_backoff)
        );
    }
}
