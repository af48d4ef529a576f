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

/// Remedy where a proxy asks for a login.
pub(crate) const PROXY_LOGIN: &str =
    "the proxy lets nobody in with the user and password of spec.egress.proxy.url";

/// Why nothing was delivered. Texts hold no secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum DeliveryError {
    /// HTTP status that is not a success.
    Status {
        status: StatusCode,
        /// `Retry-After`.
        retry_after: Option<Duration>,
        /// Host of a redirect's target, if any.
        location: Option<String>,
        /// Beginning of the body.
        excerpt: String,
    },
    /// Egress is denied; holds the reason and the remedy.
    EgressDenied(String),
    /// No connection was made, or it broke.
    ConnectionFailed(String),
    /// The endpoint was not reached, which the delivery cannot be to blame for: its name does not resolve,
    /// or nothing answers there.
    Unreachable(String),
    /// No connection was made because of how this side is configured, as by its certificates.
    Misconfigured(String),
    /// The response is not valid HTTP.
    InvalidResponse(String),
    /// The response is larger than the limit.
    ResponseTooLarge(String),
    /// No response within the attempt's timeout.
    Timeout(Duration),
    /// The endpoint is unavailable, in words of a protocol other than HTTP, with that protocol's status.
    Unavailable(String, Option<u16>),
    /// This delivery is rejected for now, because of what it is or names, in the same words.
    TemporarilyRejected(String, Option<u16>),
    /// This delivery is rejected for good, in the same words, with a remedy.
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
            format!("{host} did not answer within {timeout:?}, its timeout"),
        ),
        DeliveryError::Unavailable(said, status) => {
            let message = format!("{host} is unavailable: {said}");
            later(message, status, Tells::Failed)
        }
        DeliveryError::TemporarilyRejected(said, status) => {
            let message = format!("{host} rejected it for now: {said}");
            later(message, status, Tells::There)
        }
        DeliveryError::Permanent(said, status) => Outcome::Rejected(Failure {
            kind: FailureKind::Status,
            message: format!("{host} rejected it: {said}"),
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
            // The proxy's, which says nothing of the endpoint behind it.
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
                     set its URL to the final address"
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
            format!("{host} rejected it with {code}{said}"),
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

/// Returns the error of a connection that was not made or broke.
pub(crate) fn connection_failed(why: impl fmt::Display) -> DeliveryError {
    DeliveryError::ConnectionFailed(format!("no connection, or it broke: {why}"))
}

/// Appends the remedy of the first known case that a message is.
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

/// Returns it with what it says of the endpoint.
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
mod tests;
