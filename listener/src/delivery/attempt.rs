//! An attempt that failed, as histories keep it.

use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::failure::Failure;

/// Most attempts that a history keeps, the latest ones.
pub const MAX_HISTORY: usize = 20;

/// One attempt that failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attempt {
    /// When it ended.
    pub at: DateTime<Utc>,
    /// Kind of the failure.
    pub kind: String,
    /// What happened.
    pub error: String,
    /// HTTP status, where there was one.
    pub status: Option<u16>,
    /// How long it took, in milliseconds; nothing where nothing was tried.
    #[serde(rename = "tookMs", default, skip_serializing_if = "Option::is_none")]
    pub took_ms: Option<u64>,
}

impl Attempt {
    /// Notes a failure. Postgres' text holds no NUL, so none is kept.
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

/// Keeps an attempt among the latest ones.
pub fn note(history: &mut Vec<Attempt>, attempt: Attempt) {
    let surplus = (history.len() + 1).saturating_sub(MAX_HISTORY);
    history.drain(..surplus);
    history.push(attempt);
}
