//! Why an attempt failed.

/// Why an attempt failed, in words that hold no secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The kind, as metrics and dead letters name it.
    pub kind: FailureKind,
    /// For a person: what happened, and what to do about it.
    pub message: String,
    /// HTTP status, where there was one.
    pub status: Option<u16>,
    /// What it tells of the receiver, if it may pass.
    pub tells: Tells,
}

/// What a failure tells of the receiver, apart from the delivery at hand.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Tells {
    /// Nothing: this side is set up wrongly, or nothing was sent.
    Nothing,
    /// It is there, and others may fare better.
    There,
    /// It failed; the delivery may be why.
    #[default]
    Failed,
    /// It cannot be reached, whatever the delivery.
    Away,
}

impl Failure {
    /// A failure without a status.
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
    /// The answer was not what the protocol allows, or too large.
    Response,
    /// The observer or the action is no longer there.
    Removed,
    /// The process that made the last attempt was never heard of again.
    Lost,
    /// It took longer in all than its action allows.
    Deadline,
    /// None: somebody wants a past event delivered once more.
    Replay,
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
            Self::Removed => "removed",
            Self::Lost => "lost",
            Self::Deadline => "deadline",
            Self::Replay => "replay",
        }
    }
}
