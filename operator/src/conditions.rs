//! Conditions by the conventions of the Kubernetes API.
//!
//! The time of the last transition changes with the status only. Reasons are words that the API
//! server accepts, and messages are bounded, also those that come from a pod.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use k8s_openapi::jiff::Timestamp;

/// Longest message.
const MAX_MESSAGE: usize = 1024;

/// Longest reason.
const MAX_REASON: usize = 128;

/// Stands in for a reason that the API server would reject.
const FALLBACK_REASON: &str = "Unknown";

/// Type of the condition by which kstatus knows that a change is on its way. By the conventions of kstatus it is
/// there only while it is true, as is [`STALLED`].
pub const RECONCILING: &str = "Reconciling";

/// Type of the condition by which kstatus knows that nothing changes until the resource itself is corrected.
pub const STALLED: &str = "Stalled";

/// Status of a condition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConditionStatus {
    /// The condition is true.
    True,
    /// The condition is false.
    False,
    /// It is not known.
    Unknown,
}

impl ConditionStatus {
    /// Returns it as the API writes it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::True => "True",
            Self::False => "False",
            Self::Unknown => "Unknown",
        }
    }
}

/// Value of a condition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConditionValue {
    /// The status.
    pub status: ConditionStatus,
    /// The reason, in `CamelCase`.
    pub reason: String,
    /// The message: why, and what to do.
    pub message: String,
}

impl ConditionValue {
    /// Returns the value of a condition.
    #[must_use]
    pub fn of(condition: &Condition) -> Option<Self> {
        let known = [
            ConditionStatus::True,
            ConditionStatus::False,
            ConditionStatus::Unknown,
        ];
        let status = known
            .into_iter()
            .find(|status| status.as_str() == condition.status)?;
        Some(Self::new(status, &*condition.reason, &*condition.message))
    }

    /// Creates a value.
    pub fn new(
        status: ConditionStatus,
        reason: impl Into<String>,
        message: impl Into<String>,
    ) -> Self {
        Self {
            status,
            reason: reason.into(),
            message: message.into(),
        }
    }
}

/// Creates a condition of a type, given the conditions before.
#[must_use]
pub fn condition(
    before: &[Condition],
    type_: &str,
    value: ConditionValue,
    generation: i64,
    now: Timestamp,
) -> Condition {
    let status = value.status.as_str();
    let same = find(before, type_).filter(|condition| condition.status == status);
    Condition {
        type_: type_.to_owned(),
        status: status.to_owned(),
        reason: valid_reason(value.reason),
        message: bounded(value.message),
        observed_generation: Some(generation),
        last_transition_time: same.map_or_else(
            || Time(whole_second(now)),
            |condition| condition.last_transition_time.clone(),
        ),
    }
}

/// Returns the condition of a type.
#[must_use]
pub fn find<'a>(conditions: &'a [Condition], type_: &str) -> Option<&'a Condition> {
    conditions.iter().find(|condition| condition.type_ == type_)
}

/// Returns whether the condition of a type is true.
#[must_use]
pub fn is_true(conditions: &[Condition], type_: &str) -> bool {
    find(conditions, type_).is_some_and(|condition| condition.status == "True")
}

/// Times in the API have whole seconds.
fn whole_second(now: Timestamp) -> Timestamp {
    Timestamp::from_second(now.as_second()).unwrap_or(now)
}

fn valid_reason(reason: String) -> String {
    let fits = reason.len() <= MAX_REASON
        && reason.starts_with(|c: char| c.is_ascii_alphabetic())
        && reason.chars().all(|c| c.is_ascii_alphanumeric());
    if fits {
        reason
    } else {
        FALLBACK_REASON.to_owned()
    }
}

fn bounded(mut message: String) -> String {
    if message.len() > MAX_MESSAGE {
        let end = message.floor_char_boundary(MAX_MESSAGE - 3);
        message.truncate(end);
        message.push_str("...");
    }
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap_or(Timestamp::UNIX_EPOCH)
    }

    #[test]
    fn transition_time_changes_with_the_status_only() {
        let say = |status, reason| ConditionValue::new(status, reason, "");
        let first = condition(
            &[],
            "Ready",
            say(ConditionStatus::False, "Starting"),
            1,
            at(10),
        );
        let other = condition(
            std::slice::from_ref(&first),
            "Ready",
            say(ConditionStatus::False, "NoActivePod"),
            2,
            at(20),
        );
        assert_eq!(other.last_transition_time, first.last_transition_time);
        assert_eq!(
            (&*other.reason, other.observed_generation),
            ("NoActivePod", Some(2))
        );
        let turned = condition(
            &[other],
            "Ready",
            say(ConditionStatus::True, "Ready"),
            2,
            at(30),
        );
        assert_eq!(turned.last_transition_time, Time(at(30)));
    }

    #[test]
    fn text_of_pods_makes_valid_conditions() {
        let long = "ä".repeat(2000);
        let said = condition(
            &[],
            "Ready",
            ConditionValue::new(ConditionStatus::True, "not one word", long),
            1,
            at(1),
        );
        assert_eq!(said.reason, FALLBACK_REASON);
        assert!(said.message.len() <= MAX_MESSAGE && said.message.ends_with("..."));
    }
}
