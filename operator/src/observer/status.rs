//! The status of an observer.
//!
//! Several listeners may select it; it runs once all of them run it.

use crds::resources::ObserverStatus;
use k8s_openapi::jiff::Timestamp;

use crate::conditions::{Saying, Truth, condition, find};
use crate::object_ref::Key;
use crate::observer::evaluation::{Tracked, Verdict};

/// Most listeners that a status lists.
const MAX_LISTENERS: usize = 64;

/// The status of an observer by the verdicts of the listeners that select it, given the status
/// before. `unreadable` says why it cannot be read, if so.
#[must_use]
pub fn compute_status(
    generation: i64,
    unreadable: Option<&str>,
    verdicts: &[(Key, Verdict)],
    before: &ObserverStatus,
    now: Timestamp,
) -> ObserverStatus {
    // Listeners that may not run it matter only where no other does.
    let said = Said {
        kept_out: verdicts.iter().find_map(|(_, verdict)| match verdict {
            Verdict::NotAllowed { message } => Some(&**message),
            _ => None,
        }),
        verdicts: verdicts
            .iter()
            .filter(|(_, verdict)| verdict.selected())
            .collect(),
    };
    let listeners: Vec<String> = said
        .verdicts
        .iter()
        .map(|(listener, _)| listener.to_string())
        .take(MAX_LISTENERS)
        .collect();
    let lately = |type_: &str| {
        find(&before.conditions, type_).filter(|condition| {
            condition.observed_generation == Some(generation) && before.listeners == listeners
        })
    };
    // Restarts and new bundles do not take an observer from the pods.
    let ran = lately("Programmed").is_some_and(|condition| condition.status == "True");
    let tracked = lately("Tracked").and_then(Saying::of);
    let say = |type_: &str, saying| condition(&before.conditions, type_, saying, generation, now);
    ObserverStatus {
        observed_generation: generation,
        conditions: vec![
            say("Accepted", said.accepted(unreadable)),
            say("Resolved", said.resolved()),
            say("Programmed", said.programmed(ran)),
            say("Tracked", said.tracked(tracked)),
        ],
        listeners,
    }
}

/// What the listeners say that choose an observer.
struct Said<'a> {
    /// Those that select it.
    verdicts: Vec<&'a (Key, Verdict)>,
    /// Why one that would may not.
    kept_out: Option<&'a str>,
}

impl Said<'_> {
    fn accepted(&self, unreadable: Option<&str>) -> Saying {
        let invalid = self.verdicts.iter().find_map(|(_, verdict)| match verdict {
            Verdict::Invalid { message } => Some(message.as_str()),
            _ => None,
        });
        if let Some(why) = unreadable.or(invalid) {
            return Saying::new(Truth::False, "Invalid", why);
        }
        if self.verdicts.is_empty() {
            return self.not_selected(Truth::Unknown);
        }
        Saying::new(Truth::True, "Accepted", "it is right in itself")
    }

    fn resolved(&self) -> Saying {
        let missing = self.verdicts.iter().find_map(|(_, verdict)| match verdict {
            Verdict::Unresolved { reason, message } => Some((reason, message)),
            _ => None,
        });
        if let Some((reason, message)) = missing {
            return Saying::new(Truth::False, &**reason, &**message);
        }
        if self.verdicts.is_empty() {
            return self.not_selected(Truth::Unknown);
        }
        let looked_at =
            |verdict: &Verdict| matches!(verdict, Verdict::Programmed(_) | Verdict::Waiting { .. });
        if self.verdicts.iter().any(|(_, verdict)| looked_at(verdict)) {
            return Saying::new(Truth::True, "Resolved", "all that it refers to is there");
        }
        if self
            .verdicts
            .iter()
            .any(|(_, verdict)| *verdict == Verdict::Suspended)
        {
            return Saying::new(
                Truth::Unknown,
                "Suspended",
                "its Secrets are looked up once it is Active",
            );
        }
        Saying::new(
            Truth::Unknown,
            "Invalid",
            "its Secrets are looked up once it is right in itself",
        )
    }

    fn programmed(&self, ran: bool) -> Saying {
        if self.verdicts.is_empty() {
            return self.not_selected(Truth::False);
        }
        let no = |listener: &Key, reason: &str, message: &str| {
            Saying::new(
                Truth::False,
                reason,
                format!("listener {listener} does not run it: {message}"),
            )
        };
        let mut waiting = None;
        for (listener, verdict) in &self.verdicts {
            match verdict {
                Verdict::Invalid { message } => return no(listener, "Invalid", message),
                Verdict::Unresolved { reason, message } => return no(listener, reason, message),
                Verdict::Suspended => {
                    return Saying::new(
                        Truth::False,
                        "Suspended",
                        "events pass without a look at them until spec.state is Active",
                    );
                }
                Verdict::Waiting { reason, message } => {
                    let stops = reason == "ScaledToZero";
                    if waiting.is_none() && (stops || !ran) {
                        waiting = Some(no(listener, reason, message));
                    }
                }
                Verdict::Programmed(_) | Verdict::NotAllowed { .. } => {}
            }
        }
        waiting.unwrap_or_else(|| {
            Saying::new(
                Truth::True,
                "Programmed",
                "every listener that selects it runs it",
            )
        })
    }

    /// Whether the databases of all listeners log what it watches. Until pods have said, it stays as
    /// it was said `before`, as bundles and pods come and go.
    fn tracked(&self, before: Option<Saying>) -> Saying {
        if self.verdicts.is_empty() {
            return self.not_selected(Truth::Unknown);
        }
        let unknown = |reason: &str, message: &str| Saying::new(Truth::Unknown, reason, message);
        let mut open = None;
        let mut waits = false;
        for (listener, verdict) in &self.verdicts {
            let why = match verdict {
                Verdict::Programmed(Tracked::No { reason, message }) => {
                    let message = format!("listener {listener}: {message}");
                    return Saying::new(Truth::False, &**reason, message);
                }
                Verdict::Suspended => unknown(
                    "Suspended",
                    "its table is looked up once spec.state is Active",
                ),
                Verdict::Invalid { .. } => unknown(
                    "Invalid",
                    "its table is looked up once it is right in itself",
                ),
                Verdict::Unresolved { reason, .. } => unknown(
                    reason,
                    "its table is looked up once all is there that it refers to",
                ),
                Verdict::Waiting { reason, .. } if reason == "ScaledToZero" => {
                    unknown(reason, "no pod runs that could look its table up")
                }
                Verdict::Programmed(Tracked::Unknown) | Verdict::Waiting { .. } => {
                    waits = true;
                    continue;
                }
                Verdict::Programmed(Tracked::Yes) | Verdict::NotAllowed { .. } => continue,
            };
            open.get_or_insert(why);
        }
        match open {
            Some(why) => why,
            None if waits => before.unwrap_or_else(|| {
                unknown(
                    "Pending",
                    "no pod has told yet whether the database logs what it watches; where they find more than \
                     a report has room for, the rest is in their logs",
                )
            }),
            None => Saying::new(
                Truth::True,
                "AsExpected",
                "the database logs what it watches, with all columns that it looks at",
            ),
        }
    }

    fn not_selected(&self, truth: Truth) -> Saying {
        if let Some(why) = self.kept_out {
            return Saying::new(truth, "NamespaceNotAllowed", why);
        }
        Saying::new(
            truth,
            "NotSelected",
            "no ObserverListener selects it; compare its labels and namespace with spec.observerSelector \
         and spec.observerNamespaces of the listener that should",
        )
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]

    use super::*;

    fn said(status: &ObserverStatus) -> Vec<(String, String)> {
        let pair = |type_| {
            let condition = find(&status.conditions, type_).unwrap();
            (condition.status.clone(), condition.reason.clone())
        };
        ["Accepted", "Resolved", "Programmed", "Tracked"]
            .map(pair)
            .to_vec()
    }

    const RUNS: Verdict = Verdict::Programmed(Tracked::Yes);

    fn pairs(expected: [(&str, &str); 4]) -> Vec<(String, String)> {
        expected
            .map(|(status, reason)| (status.to_owned(), reason.to_owned()))
            .to_vec()
    }

    fn of(verdicts: &[Verdict], before: &ObserverStatus) -> ObserverStatus {
        let verdicts: Vec<_> = verdicts
            .iter()
            .enumerate()
            .map(|(index, verdict)| (Key::new("shop", format!("l{index}")), verdict.clone()))
            .collect();
        compute_status(2, None, &verdicts, before, Timestamp::UNIX_EPOCH)
    }

    fn waiting(reason: &str) -> Verdict {
        Verdict::Waiting {
            reason: reason.to_owned(),
            message: String::new(),
        }
    }

    #[test]
    fn each_verdict_shows_in_its_condition() {
        let missing = Verdict::Unresolved {
            reason: "SecretMissing".into(),
            message: String::new(),
        };
        let invalid = Verdict::Invalid {
            message: String::new(),
        };
        let kept_out = Verdict::not_allowed(&Key::new("ops", "l"), &Key::new("shop", "o"), true);
        for (verdicts, expected) in [
            (
                vec![],
                [
                    ("Unknown", "NotSelected"),
                    ("Unknown", "NotSelected"),
                    ("False", "NotSelected"),
                    ("Unknown", "NotSelected"),
                ],
            ),
            (
                vec![RUNS],
                [
                    ("True", "Accepted"),
                    ("True", "Resolved"),
                    ("True", "Programmed"),
                    ("True", "AsExpected"),
                ],
            ),
            (
                vec![RUNS, waiting("Pending")],
                [
                    ("True", "Accepted"),
                    ("True", "Resolved"),
                    ("False", "Pending"),
                    ("Unknown", "Pending"),
                ],
            ),
            (
                vec![RUNS, missing],
                [
                    ("True", "Accepted"),
                    ("False", "SecretMissing"),
                    ("False", "SecretMissing"),
                    ("Unknown", "SecretMissing"),
                ],
            ),
            (
                vec![kept_out.clone()],
                [
                    ("Unknown", "NamespaceNotAllowed"),
                    ("Unknown", "NamespaceNotAllowed"),
                    ("False", "NamespaceNotAllowed"),
                    ("Unknown", "NamespaceNotAllowed"),
                ],
            ),
            (
                vec![kept_out, RUNS],
                [
                    ("True", "Accepted"),
                    ("True", "Resolved"),
                    ("True", "Programmed"),
                    ("True", "AsExpected"),
                ],
            ),
            (
                vec![invalid],
                [
                    ("False", "Invalid"),
                    ("Unknown", "Invalid"),
                    ("False", "Invalid"),
                    ("Unknown", "Invalid"),
                ],
            ),
            (
                vec![Verdict::Suspended],
                [
                    ("True", "Accepted"),
                    ("Unknown", "Suspended"),
                    ("False", "Suspended"),
                    ("Unknown", "Suspended"),
                ],
            ),
        ] {
            let status = of(&verdicts, &ObserverStatus::default());
            assert_eq!(said(&status), pairs(expected), "{verdicts:?}");
        }
    }

    #[test]
    fn what_ran_goes_on_running_while_a_bundle_is_on_its_way() {
        let ran = of(&[RUNS], &ObserverStatus::default());
        assert_eq!(of(&[waiting("Pending")], &ran), ran);
        let stopped = of(&[waiting("ScaledToZero")], &ran);
        assert_eq!(said(&stopped)[2], ("False".into(), "ScaledToZero".into()));
        let more = of(&[RUNS, waiting("Pending")], &ran);
        assert_eq!(said(&more)[2], ("False".into(), "Pending".into()));
    }
    fn untracked(message: &str) -> Verdict {
        Verdict::Programmed(Tracked::No {
            reason: "TableNotTracked".to_owned(),
            message: message.to_owned(),
        })
    }

    fn tracked(status: &ObserverStatus) -> (&str, &str, &str) {
        let found = find(&status.conditions, "Tracked").unwrap();
        (&found.status, &found.reason, &found.message)
    }

    #[test]
    fn one_listener_whose_database_does_not_log_it_is_named() {
        let status = of(&[RUNS, untracked("track it")], &ObserverStatus::default());
        assert_eq!(
            tracked(&status),
            ("False", "TableNotTracked", "listener shop/l1: track it")
        );
        assert_eq!(said(&status)[2], ("True".into(), "Programmed".into()));
        let status = of(&[waiting("Pending"), untracked("x")], &status);
        assert_eq!(tracked(&status).0, "False");
    }

    #[test]
    fn what_was_found_of_its_table_stays_until_pods_have_looked_and_heals() {
        let unknown = Verdict::Programmed(Tracked::Unknown);
        let no = of(&[untracked("track it")], &ObserverStatus::default());
        for meanwhile in [waiting("Pending"), unknown.clone()] {
            assert_eq!(tracked(&of(&[meanwhile], &no)), tracked(&no));
        }
        let healed = of(&[RUNS], &no);
        assert_eq!(tracked(&healed).1, "AsExpected");
        assert_eq!(of(std::slice::from_ref(&unknown), &healed), healed);
        let stopped = of(&[waiting("ScaledToZero")], &no);
        assert_eq!(tracked(&stopped).1, "ScaledToZero");
        // Another generation may watch another table, and another listener another database.
        let mut older = no.clone();
        for condition in &mut older.conditions {
            condition.observed_generation = Some(1);
        }
        assert_eq!(
            tracked(&of(std::slice::from_ref(&unknown), &older)).1,
            "Pending"
        );
        assert_eq!(tracked(&of(&[unknown, RUNS], &no)).1, "Pending");
    }
}
