//! Attempts of a job, as its history holds them.

use serde::Deserialize;

/// Most attempts that a job's history holds.
pub(crate) const MAX_HISTORY: usize = 20;

/// The part of an attempt that the queue reads.
#[derive(Deserialize)]
struct Attempt {
    #[serde(default)]
    error: Option<String>,
}

/// Error of the last attempt in a history, if it has one.
pub(crate) fn last_error(history: &str) -> Option<String> {
    let attempts: Vec<Attempt> = serde_json::from_str(history).ok()?;
    attempts.into_iter().next_back()?.error
}
