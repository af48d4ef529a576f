//! The side effects that an observer may have: one file a kind, one shape for all.
//!
//! An action is compiled once from its configuration and then attempted for each delivery.
//! An attempt never retries by itself: it says what came of it, and dispatch decides.

use std::sync::Arc;
use std::time::Duration;

use crate::event::Event;

/// One action of one observer on one event.
#[derive(Clone, Debug)]
pub struct Delivery {
    /// The event.
    pub event: Arc<Event>,
    /// The observer, `namespace/name`.
    pub observer: Arc<str>,
    /// The action's name.
    pub action: Arc<str>,
    /// 1 for the first attempt.
    pub attempt: u32,
}

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
}

/// Why an attempt failed, in words that hold no secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The kind, as metrics and dead letters name it.
    pub kind: FailureKind,
    /// For a person: what happened, and what to do about it.
    pub message: String,
    /// HTTP status, where there was one.
    pub status: Option<u16>,
}

/// Kinds of failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FailureKind {
    /// The event's content cannot be processed (images that do not parse, or too large).
    Event,
    /// The observer's condition failed on this event.
    Condition,
    /// A template failed on this event.
    Template,
    /// The address is not allowed to be dialled.
    Egress,
    /// No connection, or it broke.
    Connection,
    /// No answer in time.
    Timeout,
    /// An answer that is not a success.
    Status,
    /// A redirect, which is never followed.
    Redirect,
    /// The answer was not proper HTTP, or too large.
    Response,
}

impl FailureKind {
    /// The name in metrics, dead letters and logs.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Event => "event",
            Self::Condition => "condition",
            Self::Template => "template",
            Self::Egress => "egress",
            Self::Connection => "connection",
            Self::Timeout => "timeout",
            Self::Status => "status",
            Self::Redirect => "redirect",
            Self::Response => "response",
        }
    }
}
