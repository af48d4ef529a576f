//! When to try again.

use std::time::Duration;

use crds::config::Retry;

/// The wait after attempt number `attempt` (1 for the first), or nothing when no attempt is left.
///
/// Exponential with full jitter (all of it is drawn, up to the bound: see Brooker, "Exponential
/// Backoff And Jitter", 2015), so that what failed together does not come back together, and a
/// receiver that is back has the least to bear. `random` is drawn from 0 to 1. A wait that the
/// receiver named is kept to, up to the longest one allowed.
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

/// How much of an action's time in all is left after `age`; nothing where that is not bounded.
#[must_use]
pub fn left(retry: &Retry, age: Duration) -> Option<Duration> {
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
    fn waits_double_up_to_the_longest() {
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
    fn all_of_a_wait_is_drawn() {
        assert_eq!(wait(&RETRY, 1, None, 0.0), Some(Duration::ZERO));
        assert_eq!(wait(&RETRY, 1, None, 0.5), Some(Duration::from_millis(500)));
    }

    #[test]
    fn the_receiver_is_heeded_within_bounds() {
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
    fn no_number_of_attempts_overflows() {
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
