//! Decides which transitions of a status deserve an Event: pure functions.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;

use crate::conditions::find;

/// Longest note of an Event.
const MAX_NOTE: usize = 1000;

/// An Event before it is published.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventDraft {
    /// Whether it is a warning.
    pub warning: bool,
    /// The reason.
    pub reason: String,
    /// The note.
    pub note: String,
}

impl EventDraft {
    /// Creates a warning.
    pub fn warning(reason: impl Into<String>, note: impl Into<String>) -> Self {
        Self::new(true, reason, note)
    }

    /// Creates a normal Event.
    pub fn normal(reason: impl Into<String>, note: impl Into<String>) -> Self {
        Self::new(false, reason, note)
    }

    fn new(warning: bool, reason: impl Into<String>, note: impl Into<String>) -> Self {
        let mut note = note.into();
        note.truncate(note.floor_char_boundary(MAX_NOTE));
        Self {
            warning,
            reason: reason.into(),
            note,
        }
    }
}

/// Reasons without an Event: something is in progress, or as the user asked for.
const UNREPORTED_REASONS: [&str; 8] = [
    "Starting",
    "Pending",
    "ScaledToZero",
    "NotSelected",
    "Suspended",
    "BundleNotLoaded",
    "PodsUnavailable",
    "Unknown",
];

/// Returns the Events for the transitions of a listener.
#[must_use]
pub fn listener_events(before: &[Condition], now: &[Condition]) -> Vec<EventDraft> {
    let mut drafts = Vec::new();
    drafts.extend(turned_bad(before, now, "Ready", "False"));
    drafts.extend(turned_bad(before, now, "Degraded", "True"));
    drafts.extend(turned_bad(before, now, "DeliveryStalled", "True"));
    drafts.extend(turned_bad(before, now, "HistoryLagging", "True"));
    // One cause shows in several conditions.
    drafts.dedup_by(|a, b| a.reason == b.reason);
    let turned = |type_: &str, from: &str, to: &str| {
        let (old, new) = (find(before, type_)?, find(now, type_)?);
        (old.status == from && new.status == to).then_some((old, new))
    };
    if let Some((old, new)) = turned("Progressing", "True", "False") {
        let reason = match &*old.reason {
            "RollingOut" => "RolledOut",
            _ => "Reloaded",
        };
        if new.reason == "UpToDate" {
            drafts.push(EventDraft::normal(reason, &*new.message));
        }
    }
    if let Some(ready) = find(now, "Ready").filter(|ready| ready.status == "True")
        && find(before, "Ready").is_none_or(|old| old.status != "True")
    {
        drafts.push(EventDraft::normal(&*ready.reason, &*ready.message));
    }
    drafts
}

/// Returns the Events for the transitions of an observer.
#[must_use]
pub fn observer_events(before: &[Condition], now: &[Condition]) -> Vec<EventDraft> {
    let mut drafts = Vec::new();
    drafts.extend(turned_bad(before, now, "Accepted", "False"));
    drafts.extend(turned_bad(before, now, "ResolvedRefs", "False"));
    drafts.extend(turned_bad(before, now, "Tracked", "False"));
    let programmed = |conditions| find(conditions, "Programmed").map(|found| &*found.status);
    if programmed(now) == Some("True") && programmed(before) != Some("True") {
        let note = find(now, "Programmed").map(|found| found.message.clone());
        drafts.push(EventDraft::normal("Programmed", note.unwrap_or_default()));
    }
    drafts
}

/// Returns an Event where a condition turned bad, or is bad for another reason.
fn turned_bad(
    before: &[Condition],
    now: &[Condition],
    type_: &str,
    bad: &str,
) -> Option<EventDraft> {
    let new = find(now, type_).filter(|condition| condition.status == bad)?;
    let same =
        find(before, type_).is_some_and(|old| old.status == new.status && old.reason == new.reason);
    (!same && !UNREPORTED_REASONS.contains(&&*new.reason))
        .then(|| EventDraft::warning(&*new.reason, &*new.message))
}

#[cfg(test)]
mod tests {
    use k8s_openapi::jiff::Timestamp;

    use super::*;
    use crate::conditions::{ConditionStatus, ConditionValue, condition};

    fn say(type_: &str, status: ConditionStatus, reason: &str) -> Condition {
        let value = ConditionValue::new(status, reason, "m");
        condition(&[], type_, value, 1, Timestamp::UNIX_EPOCH)
    }

    fn reasons(drafts: &[EventDraft]) -> Vec<(bool, &str)> {
        drafts
            .iter()
            .map(|draft| (draft.warning, &*draft.reason))
            .collect()
    }

    #[test]
    fn each_transition_has_one_event() {
        let starting = [
            say("Ready", ConditionStatus::False, "Starting"),
            say("Progressing", ConditionStatus::True, "RollingOut"),
        ];
        assert!(listener_events(&[], &starting).is_empty());
        let up = [
            say("Ready", ConditionStatus::True, "Delivering"),
            say("Progressing", ConditionStatus::False, "UpToDate"),
        ];
        let drafts = listener_events(&starting, &up);
        assert_eq!(
            reasons(&drafts),
            [(false, "RolledOut"), (false, "Delivering")]
        );
        assert!(listener_events(&up, &up).is_empty());
        let away = [
            say("Ready", ConditionStatus::False, "DatabaseUnreachable"),
            say("Degraded", ConditionStatus::True, "DatabaseUnreachable"),
        ];
        let drafts = listener_events(&up, &away);
        assert_eq!(reasons(&drafts), [(true, "DatabaseUnreachable")]);
        assert!(listener_events(&away, &away).is_empty());
        let index_away = [say(
            "HistoryLagging",
            ConditionStatus::True,
            "SearchIndexFailing",
        )];
        assert_eq!(
            reasons(&listener_events(&[], &index_away)),
            [(true, "SearchIndexFailing")]
        );
    }

    #[test]
    fn rejected_and_programmed_observers_have_events() {
        let refused = [
            say("Accepted", ConditionStatus::False, "Invalid"),
            say("Programmed", ConditionStatus::False, "Invalid"),
        ];
        assert_eq!(
            reasons(&observer_events(&[], &refused)),
            [(true, "Invalid")]
        );
        let runs = [
            say("Accepted", ConditionStatus::True, "Accepted"),
            say("Programmed", ConditionStatus::True, "Programmed"),
        ];
        assert_eq!(
            reasons(&observer_events(&refused, &runs)),
            [(false, "Programmed")]
        );
    }
}
