//! Failures of attempts.

/// The failure of an attempt, in words without secrets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The kind, as metrics and dead letters name it.
    pub kind: FailureKind,
    /// What happened, and how to fix it.
    pub message: String,
    /// HTTP status, where there was one.
    pub status: Option<u16>,
    /// What it indicates about the endpoint, if it may be temporary.
    pub tells: Tells,
}

/// What a failure indicates about the endpoint, apart from the delivery at hand.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Tells {
    /// Nothing: this side is misconfigured, or nothing was sent.
    Nothing,
    /// It responds, and other deliveries may succeed.
    There,
    /// It failed; the delivery may be the cause.
    #[default]
    Failed,
    /// It is unreachable for any delivery.
    Away,
}

impl Failure {
    /// Creates a failure without a status.
    #[must_use]
    pub fn of(kind: FailureKind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
            status: None,
            tells: Tells::default(),
        }
    }
}

/// The kinds of failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FailureKind {
    /// The event's content cannot be processed (images that do not parse, or too large).
    Event,
    /// The observer's condition failed on this event.
    Condition,
    /// A template failed on this event.
    Template,
    /// A lookup failed.
    Lookup,
    /// The egress policy denies the address.
    Egress,
    /// No connection, or it broke.
    Connection,
    /// No response in time.
    Timeout,
    /// A response with an error status.
    Status,
    /// A redirect, which is never followed.
    Redirect,
    /// The response was invalid, or too large.
    Response,
    /// The observer or the action was removed.
    Removed,
    /// The lease of the worker that made the last attempt expired.
    Lost,
    /// The deadline of the delivery passed.
    Deadline,
    /// None: a replay of a past event was requested.
    Replay,
}

impl FailureKind {
    /// Returns the name in metrics, dead letters and logs.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Event => "event",
            Self::Condition => "condition",
            Self::Template => "template",
            Self::Lookup => "lookup",
            Self::Egress => "egress",
            Self::Connection => "connection",
            Self::Timeout => "timeout",
            Self::Status => "status",
            Self::Redirect => "redirect",
            Self::Response => "response",
            Self::Removed => "removed",
            Self::Lost => "lost",
            Self::Deadline => "deadline",
            Self::Replay => "replay",
        }
    }
}
