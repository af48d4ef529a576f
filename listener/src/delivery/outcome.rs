//! Outcome of an attempt.

use std::time::Duration;

use super::failure::Failure;

/// Outcome of an attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Delivered successfully.
    Delivered,
    /// A failure that may pass: to be retried, not before `after` where the endpoint named a time.
    Retry {
        /// Why it failed.
        failure: Failure,
        /// Wait that the endpoint asks for (`Retry-After`).
        after: Option<Duration>,
    },
    /// A permanent failure.
    Rejected(Failure),
    /// Not to be delivered: the action's condition does not hold.
    Skipped,
    /// Not sent, as an equal request was delivered a while ago, which stands for it.
    Cached,
    /// Not attempted: the circuit breaker is open or a limit is reached; may be tried after this long.
    Deferred(Duration),
}

impl Outcome {
    /// Returns why a delivery that is done was not sent, in a word; nothing where it was.
    #[must_use]
    pub const fn unsent(&self) -> Option<&'static str> {
        match self {
            Self::Skipped => Some("skipped"),
            Self::Cached => Some("cached"),
            _ => None,
        }
    }
}
