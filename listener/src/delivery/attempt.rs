//! Failed attempts, as histories store them.

use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::failure::Failure;

/// Maximum number of attempts in a history: the latest ones.
pub const MAX_HISTORY: usize = 20;

/// A failed attempt.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attempt {
    /// When it ended.
    pub at: DateTime<Utc>,
    /// The kind of failure.
    pub kind: String,
    /// What happened.
    pub error: String,
    /// The HTTP status, where there was one.
    pub status: Option<u16>,
    /// How long it took, in milliseconds; nothing where nothing was attempted.
    #[serde(rename = "tookMs", default, skip_serializing_if = "Option::is_none")]
    pub took_ms: Option<u64>,
}

impl Attempt {
    /// Creates the record of a failure, without NUL: text in Postgres holds none.
    #[must_use]
    pub fn new(at: DateTime<Utc>, failure: &Failure, took: Option<Duration>) -> Self {
        Self {
            at,
            kind: failure.kind.as_str().to_owned(),
            error: failure.message.replace('\0', ""),
            status: failure.status,
            took_ms: took.map(|took| u64::try_from(took.as_millis()).unwrap_or(u64::MAX)),
        }
    }
}

/// Adds an attempt to a history, and drops the oldest beyond [`MAX_HISTORY`].
pub fn push_attempt(history: &mut Vec<Attempt>, attempt: Attempt) {
    let surplus = (history.len() + 1).saturating_sub(MAX_HISTORY);
    history.drain(..surplus);
    history.push(attempt);
}
