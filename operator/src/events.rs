//! Which turns of a status are worth an Event: pure.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;

use crate::conditions::find;

/// Longest note of an Event.
const MAX_NOTE: usize = 1000;

/// An Event to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notice {
    /// Whether somebody should look.
    pub warning: bool,
    /// Why, in a word.
    pub reason: String,
    /// In a sentence.
    pub note: String,
}

impl Notice {
    /// Something that somebody should look at.
    pub fn warning(reason: impl Into<String>, note: impl Into<String>) -> Self {
        Self::new(true, reason, note)
    }

    /// Something that went as it should.
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

/// Reasons that say that something is on its way, or as it was asked for.
const QUIET: [&str; 8] = [
    "Starting",
    "Pending",
    "ScaledToZero",
    "NotSelected",
    "Suspended",
    "BundleNotLoaded",
    "PodsUnavailable",
    "Unknown",
];

/// What turned for the worse or for the better in a listener.
#[must_use]
pub fn of_listener(before: &[Condition], now: &[Condition]) -> Vec<Notice> {
    let mut notices = Vec::new();
    notices.extend(worse(before, now, "Ready", "False"));
    notices.extend(worse(before, now, "Degraded", "True"));
    notices.extend(worse(before, now, "Stalled", "True"));
    // One cause shows in several conditions.
    notices.dedup_by(|a, b| a.reason == b.reason);
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
            notices.push(Notice::normal(reason, &*new.message));
        }
    }
    if let Some(ready) = find(now, "Ready").filter(|ready| ready.status == "True")
        && find(before, "Ready").is_none_or(|old| old.status != "True")
    {
        notices.push(Notice::normal(&*ready.reason, &*ready.message));
    }
    notices
}

/// What turned for the worse or for the better in an observer.
#[must_use]
pub fn of_observer(before: &[Condition], now: &[Condition]) -> Vec<Notice> {
    let mut notices = Vec::new();
    notices.extend(worse(before, now, "Accepted", "False"));
    notices.extend(worse(before, now, "Resolved", "False"));
    notices.extend(worse(before, now, "Tracked", "False"));
    let programmed = |conditions| find(conditions, "Programmed").map(|found| &*found.status);
    if programmed(now) == Some("True") && programmed(before) != Some("True") {
        let note = find(now, "Programmed").map(|found| found.message.clone());
        notices.push(Notice::normal("Programmed", note.unwrap_or_default()));
    }
    notices
}

/// A condition that has come to be bad, or bad for another reason.
fn worse(before: &[Condition], now: &[Condition], type_: &str, bad: &str) -> Option<Notice> {
    let new = find(now, type_).filter(|condition| condition.status == bad)?;
    let same =
        find(before, type_).is_some_and(|old| old.status == new.status && old.reason == new.reason);
    (!same && !QUIET.contains(&&*new.reason)).then(|| Notice::warning(&*new.reason, &*new.message))
}

#[cfg(test)]
mod tests {
    use k8s_openapi::jiff::Timestamp;

    use super::*;
    use crate::conditions::{Saying, Truth, condition};

    fn say(type_: &str, truth: Truth, reason: &str) -> Condition {
        let saying = Saying::new(truth, reason, "m");
        condition(&[], type_, saying, 1, Timestamp::UNIX_EPOCH)
    }

    fn reasons(notices: &[Notice]) -> Vec<(bool, &str)> {
        notices
            .iter()
            .map(|notice| (notice.warning, &*notice.reason))
            .collect()
    }

    #[test]
    fn an_event_for_each_turn_and_none_for_what_stays() {
        let starting = [
            say("Ready", Truth::False, "Starting"),
            say("Progressing", Truth::True, "RollingOut"),
        ];
        assert!(of_listener(&[], &starting).is_empty());
        let up = [
            say("Ready", Truth::True, "Delivering"),
            say("Progressing", Truth::False, "UpToDate"),
        ];
        let notices = of_listener(&starting, &up);
        assert_eq!(
            reasons(&notices),
            [(false, "RolledOut"), (false, "Delivering")]
        );
        assert!(of_listener(&up, &up).is_empty());
        let away = [
            say("Ready", Truth::False, "DatabaseUnreachable"),
            say("Degraded", Truth::True, "DatabaseUnreachable"),
        ];
        let notices = of_listener(&up, &away);
        assert_eq!(reasons(&notices), [(true, "DatabaseUnreachable")]);
        assert!(of_listener(&away, &away).is_empty());
    }

    #[test]
    fn an_observer_that_is_refused_or_runs_at_last_is_told_of() {
        let refused = [
            say("Accepted", Truth::False, "Invalid"),
            say("Programmed", Truth::False, "Invalid"),
        ];
        assert_eq!(reasons(&of_observer(&[], &refused)), [(true, "Invalid")]);
        let runs = [
            say("Accepted", Truth::True, "Accepted"),
            say("Programmed", Truth::True, "Programmed"),
        ];
        assert_eq!(
            reasons(&of_observer(&refused, &runs)),
            [(false, "Programmed")]
        );
    }
}
