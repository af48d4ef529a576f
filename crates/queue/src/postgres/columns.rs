//! Values as the tables hold them.

use serde_json::value::RawValue;

use crate::{JobState, Priority, QueueError};

/// Encodes a number; one that is too large for the column becomes the largest that fits.
pub(super) fn integer(number: u32) -> i32 {
    i32::try_from(number).unwrap_or(i32::MAX)
}

/// Encodes a priority.
pub(super) fn priority_number(priority: Priority) -> i16 {
    match priority {
        Priority::High => 0,
        Priority::Normal => 1,
        Priority::Low => 2,
    }
}

/// Decodes a priority; only these three are ever written.
pub(super) fn priority(number: i16) -> Priority {
    match number {
        0 => Priority::High,
        1 => Priority::Normal,
        _ => Priority::Low,
    }
}

/// Encodes a filter of states; `None` matches all.
pub(super) fn states(state: Option<JobState>) -> Option<Vec<&'static str>> {
    state.map(|state| match state {
        JobState::Available => vec!["a"],
        JobState::Scheduled => vec!["s"],
        JobState::Running => vec!["r"],
        JobState::Blocked => vec!["b"],
        JobState::Completed => Vec::new(),
    })
}

/// Decodes JSON.
pub(super) fn raw(text: String) -> Result<Box<RawValue>, QueueError> {
    RawValue::from_string(text).map_err(|error| QueueError::Unreadable(error.to_string()))
}
