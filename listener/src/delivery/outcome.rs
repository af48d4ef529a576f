//! Outcomes of attempts.

use std::time::Duration;

use super::failure::{Failure, FailureKind};

/// The outcome of an attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It took effect.
    Done,
    /// It may succeed later, but not before `after`.
    Retry {
        /// The failure.
        failure: Failure,
        /// The delay that the endpoint asked for (`Retry-After`).
        after: Option<Duration>,
    },
    /// It can never succeed.
    Refused(Failure),
    /// It was not made, since the endpoint is down or a limit is reached; it may be after this delay.
    Held(Duration),
}

impl Outcome {
    /// Returns whether its connection is of no further use.
    pub(crate) fn breaks_connection(&self) -> bool {
        use FailureKind::{Connection, Response, Timeout};
        matches!(
            self,
            Self::Retry { failure, .. } if matches!(failure.kind, Connection | Response | Timeout)
        )
    }
}
