//! Log of attempts: those that failed, with a rate limit for an endpoint that is down, and at debug those
//! that succeeded.

use std::sync::Mutex;
use std::time::Duration;

use chrono::{SecondsFormat, Utc};
use server::exemplars::RecordedSpan;
use tokio::time::Instant;

use super::Compiled;
use crate::delivery::event::Event;
use crate::delivery::failure::Failure;
use crate::sync::lock;
use crate::text::hex::hex;

/// Number of failures that are logged one by one.
const LOGGED_ONE_BY_ONE: u32 = 5;

/// Interval of logged failures after these.
const LOG_INTERVAL: Duration = Duration::from_secs(30);

/// After this long without a failure, failures are logged one by one again.
const RESET_AFTER: Duration = Duration::from_mins(5);

/// Rate limit of the logged failures of one action.
#[derive(Debug, Default)]
pub struct Failures(Mutex<FailureCounts>);

#[derive(Debug, Default)]
struct FailureCounts {
    logged: u32,
    left_out: u64,
    last_logged: Option<Instant>,
    last: Option<Instant>,
}

impl Failures {
    /// Counts a failure. Returns how many were left out before it, if it is to be logged.
    fn count(&self, now: Instant) -> Option<u64> {
        let mut state = lock(&self.0);
        let since = |then: Option<Instant>| then.map(|then| now.duration_since(then));
        if since(state.last).is_some_and(|calm| calm >= RESET_AFTER) {
            state.logged = 0;
        }
        state.last = Some(now);
        if state.logged >= LOGGED_ONE_BY_ONE
            && since(state.last_logged).is_some_and(|pause| pause < LOG_INTERVAL)
        {
            state.left_out += 1;
            return None;
        }
        state.logged = state.logged.saturating_add(1);
        state.last_logged = Some(now);
        Some(std::mem::take(&mut state.left_out))
    }
}

/// Logs an attempt that failed and is retried after a wait.
pub(crate) fn failed(
    compiled: &Compiled,
    event: &Event,
    failure: &Failure,
    (attempt, span): (u32, Option<RecordedSpan>),
    wait: Duration,
) {
    let Some(left_out) = compiled.failures.count(Instant::now()) else {
        return;
    };
    let next = Utc::now() + wait;
    tracing::warn!(
        target: "observer::attempt",
        observer = &*compiled.name.observer,
        action = &*compiled.name.action,
        receiver = compiled.action.endpoint_url(),
        event = event.id,
        trace_id = event.trace_id(),
        span_id = span.map(|of| hex(&of.span)),
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

/// Logs an attempt that succeeded.
pub(crate) fn delivered(
    compiled: &Compiled,
    event: &Event,
    (attempt, span): (u32, Option<RecordedSpan>),
    took: Duration,
) {
    tracing::debug!(
        target: "observer::attempt",
        observer = &*compiled.name.observer,
        action = &*compiled.name.action,
        event = event.id,
        trace_id = event.trace_id(),
        span_id = span.map(|of| hex(&of.span)),
        attempt,
        took_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
        "delivered"
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_failures_are_logged_then_one_per_interval() {
        let failures = Failures::default();
        let begin = Instant::now();
        for _ in 0..LOGGED_ONE_BY_ONE {
            assert_eq!(failures.count(begin), Some(0));
        }
        for second in 0..30 {
            assert_eq!(failures.count(begin + Duration::from_secs(second)), None);
        }
        assert_eq!(failures.count(begin + LOG_INTERVAL), Some(30));
        assert_eq!(failures.count(begin + LOG_INTERVAL), None);
        let later = begin + LOG_INTERVAL + RESET_AFTER;
        assert_eq!(failures.count(later), Some(1));
        assert_eq!(failures.count(later), Some(0));
    }
}
