//! Delivery errors, and their classification: each protocol says which of these errors it met, and only
//! here is decided whether a retry may help.

use std::fmt;
use std::time::Duration;

use chrono::{DateTime, Utc};
use reqwest::StatusCode;
use tokio::time::{Instant, timeout_at};

use crate::delivery::failure::{Failure, FailureKind, Tells};
use crate::delivery::outcome::Outcome;

/// Longest wait that an endpoint may ask for.
pub(crate) const MAX_RETRY_AFTER: Duration = Duration::from_hours(24);

/// The remedy where a proxy wants to know who asks.
pub(crate) const PROXY_LOGIN: &str =
    "the proxy lets nobody in with the user and password of spec.egress.proxy.url";

/// Why nothing was delivered. Texts hold no secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum DeliveryError {
    /// A head of HTTP with a status.
    Status {
        status: StatusCode,
        /// The wish in `Retry-After`.
        retry_after: Option<Duration>,
        /// Host of a redirect's target, where it names one.
        location: Option<String>,
        /// Beginning of the body.
        excerpt: String,
    },
    /// The address may not be dialled; holds the reason and the remedy.
    EgressDenied(String),
    /// No connection came about, or it broke.
    ConnectionFailed(String),
    /// Nothing was reached, which the delivery cannot be to blame for: the name has no address, or
    /// nobody answers there.
    Unreachable(String),
    /// No connection came about for how this side is set up, as by its certificates.
    Misconfigured(String),
    /// Something that is not HTTP.
    InvalidResponse(String),
    /// More than is read of an answer.
    ResponseTooLarge(String),
    /// Nothing within the attempt's timeout.
    Timeout(Duration),
    /// It takes nothing now, in words of a protocol other than HTTP, and that protocol's status.
    Unavailable(String, Option<u16>),
    /// It does not take this one now, for what it is or names, in the same words.
    TemporarilyRejected(String, Option<u16>),
    /// It will never take it as it is, in the same words, with a remedy.
    Permanent(String, Option<u16>),
}

impl DeliveryError {
    /// Returns whether the connection that was used must be dropped.
    pub(crate) fn breaks_connection(&self) -> bool {
        matches!(
            self,
            Self::ConnectionFailed(_)
                | Self::Unreachable(_)
                | Self::Misconfigured(_)
                | Self::InvalidResponse(_)
                | Self::ResponseTooLarge(_)
                | Self::Timeout(_)
        )
    }

    /// Returns whether a retry may help.
    pub(crate) fn is_retryable(&self) -> bool {
        match self {
            Self::EgressDenied(_) | Self::Permanent(..) => false,
            Self::Status { status, .. } => !is_permanent(*status),
            _ => true,
        }
    }
}

/// Classifies why an attempt at `host` failed: whether a retry may help, and what it says of the endpoint.
pub(crate) fn classify(host: &str, answer: DeliveryError) -> Outcome {
    match answer {
        DeliveryError::Status {
            status,
            retry_after,
            location,
            excerpt,
        } => by_status(host, status, retry_after, location.as_deref(), &excerpt),
        DeliveryError::EgressDenied(why) => {
            Outcome::Rejected(Failure::of(FailureKind::Egress, why))
        }
        DeliveryError::ConnectionFailed(why) => {
            retry(FailureKind::Connection, format!("{host}: {why}"))
        }
        DeliveryError::Unreachable(why) => telling(
            Tells::Away,
            retry(FailureKind::Connection, format!("{host}: {why}")),
        ),
        DeliveryError::Misconfigured(why) => telling(
            Tells::Nothing,
            retry(FailureKind::Connection, format!("{host}: {why}")),
        ),
        DeliveryError::InvalidResponse(why) => retry(
            FailureKind::Response,
            format!("{host} did not answer with proper HTTP: {why}"),
        ),
        DeliveryError::ResponseTooLarge(why) => {
            retry(FailureKind::Response, format!("{host}: {why}"))
        }
        DeliveryError::Timeout(timeout) => retry(
            FailureKind::Timeout,
            format!("{host} did not answer within {timeout:?}, the action's timeout"),
        ),
        DeliveryError::Unavailable(said, status) => {
            let message = format!("{host} takes nothing now: {said}");
            later(message, status, Tells::Failed)
        }
        DeliveryError::TemporarilyRejected(said, status) => {
            let message = format!("{host} does not take it now: {said}");
            later(message, status, Tells::There)
        }
        DeliveryError::Permanent(said, status) => Outcome::Rejected(Failure {
            kind: FailureKind::Status,
            message: format!("{host} refuses: {said}"),
            status,
            tells: Tells::There,
        }),
    }
}

fn by_status(
    host: &str,
    status: StatusCode,
    retry_after: Option<Duration>,
    location: Option<&str>,
    excerpt: &str,
) -> Outcome {
    let code = status.as_u16();
    let failure = |kind, message| Failure {
        kind,
        message,
        status: Some(code),
        tells: match code {
            // The proxy's, which tells nothing of who is behind it.
            407 => Tells::Nothing,
            408 | 429 | 500.. => Tells::Failed,
            _ => Tells::There,
        },
    };
    let said = if excerpt.is_empty() {
        String::new()
    } else {
        format!(": {excerpt}")
    };
    match code {
        300..=399 => {
            let target = location.map_or(String::new(), |to| format!(" to {to}"));
            Outcome::Rejected(failure(
                FailureKind::Redirect,
                format!(
                    "{host} answered {code}, a redirect{target}; redirects are not followed: \
                     set webhook.url to the final address"
                ),
            ))
        }
        407 => Outcome::Retry {
            failure: failure(FailureKind::Status, format!("{host}: {PROXY_LOGIN}")),
            after: retry_after,
        },
        408 | 425 | 429 | 500..=599 => Outcome::Retry {
            failure: failure(FailureKind::Status, format!("{host} answered {code}{said}")),
            after: retry_after,
        },
        400..=499 => Outcome::Rejected(failure(
            FailureKind::Status,
            format!("{host} refused with {code}{said}"),
        )),
        _ => Outcome::Retry {
            failure: failure(
                FailureKind::Response,
                format!("{host} answered {code}, which is no final status"),
            ),
            after: None,
        },
    }
}

/// Runs a part of an attempt until its deadline, which is when its timeout is over.
pub(crate) async fn until_deadline<T, E: Into<DeliveryError>>(
    (deadline, timeout): (Instant, Duration),
    part: impl Future<Output = Result<T, E>>,
) -> Result<T, DeliveryError> {
    match timeout_at(deadline, part).await {
        Ok(result) => result.map_err(Into::into),
        Err(_) => Err(DeliveryError::Timeout(timeout)),
    }
}

/// No connection, or it broke, for a reason that may be told.
pub(crate) fn connection_failed(why: impl fmt::Display) -> DeliveryError {
    DeliveryError::ConnectionFailed(format!("no connection, or it broke: {why}"))
}

/// What was said, with the remedy for the first of the known cases that it is.
pub(crate) fn append_remedy(
    said: String,
    remedies: &[(&str, &str)],
    is: impl Fn(&str) -> bool,
) -> String {
    match remedies.iter().find(|(known, _)| is(known)) {
        Some((_, remedy)) => format!("{said}; {remedy}"),
        None => said,
    }
}

fn later(message: String, status: Option<u16>, tells: Tells) -> Outcome {
    Outcome::Retry {
        failure: Failure {
            kind: FailureKind::Status,
            message,
            status,
            tells,
        },
        after: None,
    }
}

/// The same, with what it tells of the receiver.
fn telling(tells: Tells, mut outcome: Outcome) -> Outcome {
    if let Outcome::Retry { failure, .. } = &mut outcome {
        failure.tells = tells;
    }
    outcome
}

fn retry(kind: FailureKind, message: String) -> Outcome {
    Outcome::Retry {
        failure: Failure::of(kind, message),
        after: None,
    }
}

/// Returns whether a retry cannot help after an answer with this status.
pub(crate) fn is_permanent(status: StatusCode) -> bool {
    matches!(status.as_u16(), 300..=499) && !matches!(status.as_u16(), 407 | 408 | 425 | 429)
}

/// Reads `Retry-After`: a number of seconds or an HTTP date; at most [`MAX_RETRY_AFTER`].
pub(crate) fn retry_after(value: &str, now: DateTime<Utc>) -> Option<Duration> {
    let value = value.trim();
    if value.is_empty() {
        return None;
    }
    let wait = if value.bytes().all(|byte| byte.is_ascii_digit()) {
        // More digits than fit are a wish for the longest wait.
        value.parse().map_or(MAX_RETRY_AFTER, Duration::from_secs)
    } else {
        let at = DateTime::parse_from_rfc2822(value).ok()?;
        (at.with_timezone(&Utc) - now).to_std().unwrap_or_default()
    };
    Some(wait.min(MAX_RETRY_AFTER))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]

    use proptest::prelude::*;

    use super::*;

    #[derive(Debug, PartialEq)]
    enum Expected {
        Retry(FailureKind),
        Rejected(FailureKind),
    }

    fn verdict(outcome: &Outcome) -> Expected {
        match outcome {
            Outcome::Retry { failure, .. } => Expected::Retry(failure.kind),
            Outcome::Rejected(failure) => Expected::Rejected(failure.kind),
            Outcome::Delivered | Outcome::Deferred(_) => unreachable!("an error is neither"),
        }
    }

    fn status(code: u16) -> DeliveryError {
        DeliveryError::Status {
            status: StatusCode::from_u16(code).unwrap(),
            retry_after: Some(Duration::from_secs(7)),
            location: Some("elsewhere.example".into()),
            excerpt: "no such hook".into(),
        }
    }

    #[test]
    fn each_answer_has_its_outcome() {
        use Expected::{Rejected, Retry};
        use FailureKind as K;
        for (answer, expected) in [
            (status(101), Retry(K::Response)),
            (status(301), Rejected(K::Redirect)),
            (status(304), Rejected(K::Redirect)),
            (status(308), Rejected(K::Redirect)),
            (status(400), Rejected(K::Status)),
            (status(401), Rejected(K::Status)),
            (status(404), Rejected(K::Status)),
            (status(407), Retry(K::Status)),
            (status(408), Retry(K::Status)),
            (status(410), Rejected(K::Status)),
            (status(422), Rejected(K::Status)),
            (status(425), Retry(K::Status)),
            (status(429), Retry(K::Status)),
            (status(500), Retry(K::Status)),
            (status(501), Retry(K::Status)),
            (status(503), Retry(K::Status)),
            (status(505), Retry(K::Status)),
            (status(599), Retry(K::Status)),
            (status(600), Retry(K::Response)),
            (DeliveryError::EgressDenied("x".into()), Rejected(K::Egress)),
            (
                DeliveryError::ConnectionFailed("x".into()),
                Retry(K::Connection),
            ),
            (DeliveryError::Unreachable("x".into()), Retry(K::Connection)),
            (
                DeliveryError::Misconfigured("x".into()),
                Retry(K::Connection),
            ),
            (
                DeliveryError::TemporarilyRejected("x".into(), Some(450)),
                Retry(K::Status),
            ),
            (
                DeliveryError::InvalidResponse("x".into()),
                Retry(K::Response),
            ),
            (
                DeliveryError::ResponseTooLarge("x".into()),
                Retry(K::Response),
            ),
            (
                DeliveryError::Timeout(Duration::from_secs(1)),
                Retry(K::Timeout),
            ),
            (
                DeliveryError::Unavailable("x".into(), Some(451)),
                Retry(K::Status),
            ),
            (
                DeliveryError::Permanent("x".into(), None),
                Rejected(K::Status),
            ),
        ] {
            let outcome = classify("h", answer.clone());
            assert_eq!(verdict(&outcome), expected, "{answer:?}");
        }
    }

    #[test]
    fn messages_say_what_was_answered_and_where_a_redirect_leads() {
        let Outcome::Rejected(gone) = classify("h.example", status(404)) else {
            unreachable!()
        };
        assert_eq!(gone.status, Some(404));
        assert_eq!(gone.message, "h.example refused with 404: no such hook");
        let Outcome::Rejected(moved) = classify("h.example", status(302)) else {
            unreachable!()
        };
        assert!(
            moved.message.contains("to elsewhere.example"),
            "{}",
            moved.message
        );
        assert!(moved.message.contains("not followed"), "{}", moved.message);
    }

    #[test]
    fn the_receiver_s_wish_is_kept_for_statuses_that_are_retried() {
        for code in [429, 503] {
            let Outcome::Retry { after, .. } = classify("h", status(code)) else {
                unreachable!()
            };
            assert_eq!(after, Some(Duration::from_secs(7)));
        }
    }

    #[test]
    fn retry_after_is_seconds_or_a_date_within_a_day() {
        let now = "2026-03-01T12:00:00Z".parse().unwrap();
        for (value, expected) in [
            ("0", Some(0)),
            (" 120 ", Some(120)),
            ("99999999", Some(86_400)),
            ("99999999999999999999999999", Some(86_400)),
            ("Sun, 01 Mar 2026 12:01:00 GMT", Some(60)),
            ("Sun, 01 Mar 2026 11:00:00 GMT", Some(0)),
            ("Mon, 01 Mar 2027 12:00:00 GMT", Some(86_400)),
            ("", None),
            ("-5", None),
            ("soon", None),
        ] {
            let expected = expected.map(Duration::from_secs);
            assert_eq!(retry_after(value, now), expected, "{value}");
        }
    }

    proptest! {
        #[test]
        fn no_wish_exceeds_the_bound(value: String, seconds: u64) {
            let now = DateTime::UNIX_EPOCH;
            for text in [value, seconds.to_string()] {
                prop_assert!(retry_after(&text, now).is_none_or(|wait| wait <= MAX_RETRY_AFTER));
            }
        }

        #[test]
        fn every_status_has_an_outcome_that_names_it(code in 100u16..1000) {
            prop_assume!(!(200..300).contains(&code));
            match classify("h", status(code)) {
                Outcome::Retry { failure, .. } | Outcome::Rejected(failure) => {
                    prop_assert_eq!(failure.status, Some(code));
                }
                Outcome::Delivered | Outcome::Deferred(_) => prop_assert!(false, "an error is neither"),
            }
        }
    }
}
