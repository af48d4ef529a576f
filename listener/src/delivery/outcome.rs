//! What came of an attempt.

use std::time::Duration;

use super::failure::{Failure, FailureKind};

/// What came of an attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It took effect.
    Done,
    /// It may work later, not before `after` where the receiver named a time.
    Retry {
        /// What went wrong.
        failure: Failure,
        /// The receiver's own wish (`Retry-After`).
        after: Option<Duration>,
    },
    /// It will never work as it is.
    Refused(Failure),
    /// It was not made: not before this time from now, since the receiver is down or a limit is
    /// reached.
    Held(Duration),
}

impl Outcome {
    /// Whether the connection that it came about by is of no further use.
    pub(crate) fn breaks_connection(&self) -> bool {
        use FailureKind::{Connection, Response, Timeout};
        matches!(
            self,
            Self::Retry { failure, .. } if matches!(failure.kind, Connection | Response | Timeout)
        )
    }
}
