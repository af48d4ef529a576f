//! What is logged of attempts: each that failed, but not thousands of one receiver that is down, and
//! at debug each that did not.

use std::sync::Mutex;
use std::time::Duration;

use chrono::{SecondsFormat, Utc};
use tokio::time::Instant;

use super::Compiled;
use crate::delivery::failure::Failure;
use crate::sync::lock;

/// Failures that are told one by one.
const FIRST: u32 = 5;

/// After these, one in so long.
const PAUSE: Duration = Duration::from_secs(30);

/// After so long without a failure, the first ones are told one by one again.
const CALM: Duration = Duration::from_mins(5);

/// How many failures of one action were told of, and how many were left out.
#[derive(Debug, Default)]
pub struct Failures(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    told: u32,
    left_out: u64,
    last_told: Option<Instant>,
    last: Option<Instant>,
}

impl Failures {
    /// Notes a failure. Answers with how many were left out before, if this one is to be told of.
    fn note(&self, now: Instant) -> Option<u64> {
        let mut state = lock(&self.0);
        let since = |then: Option<Instant>| then.map(|then| now.duration_since(then));
        if since(state.last).is_some_and(|calm| calm >= CALM) {
            state.told = 0;
        }
        state.last = Some(now);
        if state.told >= FIRST && since(state.last_told).is_some_and(|pause| pause < PAUSE) {
            state.left_out += 1;
            return None;
        }
        state.told = state.told.saturating_add(1);
        state.last_told = Some(now);
        Some(std::mem::take(&mut state.left_out))
    }
}

/// Tells of an attempt on an event that failed, and is made again after a wait.
pub(crate) fn failed(
    compiled: &Compiled,
    event: &str,
    failure: &Failure,
    attempt: u32,
    wait: Duration,
) {
    let Some(left_out) = compiled.failures.note(Instant::now()) else {
        return;
    };
    let next = Utc::now() + wait;
    tracing::warn!(
        target: "observer::attempt",
        observer = &*compiled.name.0,
        action = &*compiled.name.1,
        receiver = compiled.action.endpoint_url(),
        event,
        kind = failure.kind.as_str(),
        status = failure.status,
        error = failure.message,
        attempt,
        of = compiled.retry.attempts,
        next_attempt = next.to_rfc3339_opts(SecondsFormat::Millis, true),
        left_out = (left_out > 0).then_some(left_out),
        "an attempt failed"
    );
}

/// Tells of an attempt on an event that was accepted.
pub(crate) fn delivered(compiled: &Compiled, event: &str, attempt: u32, took: Duration) {
    tracing::debug!(
        target: "observer::attempt",
        observer = &*compiled.name.0,
        action = &*compiled.name.1,
        event,
        attempt,
        took_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
        "delivered"
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_failures_are_told_and_then_one_in_a_while() {
        let failures = Failures::default();
        let begin = Instant::now();
        for _ in 0..FIRST {
            assert_eq!(failures.note(begin), Some(0));
        }
        for second in 0..30 {
            assert_eq!(failures.note(begin + Duration::from_secs(second)), None);
        }
        assert_eq!(failures.note(begin + PAUSE), Some(30));
        assert_eq!(failures.note(begin + PAUSE), None);
        let later = begin + PAUSE + CALM;
        assert_eq!(failures.note(later), Some(1));
        assert_eq!(failures.note(later), Some(0));
    }
}
