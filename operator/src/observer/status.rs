//! The status of an observer: a pure function. Several listeners may select it; it is programmed once
//! all of them run it.

use crds::v1alpha1::ObserverStatus;
use k8s_openapi::jiff::Timestamp;

use crate::conditions::{ConditionStatus, ConditionValue, RECONCILING, STALLED, condition, find};
use crate::listener::validate::BUNDLE_TOO_LARGE;
use crate::object_ref::ObjectRef;
use crate::observer::evaluation::{ObserverEvaluation, Tracked};
use crate::observer::secrets_inline::{SECRETS_INLINE, in_plain_sight};

/// Most listeners that a status lists.
const MAX_LISTENERS: usize = 64;

/// Reasons for which an observer does not run although all is as it was asked for.
const AS_ASKED: [&str; 2] = ["Suspended", "ScaledToZero"];

/// Computes the status from the evaluations of the listeners that select the observer, and from the
/// status before. `unreadable` says why it does not parse, if so, and `inline` which of its fields hold secrets in
/// plain sight.
#[must_use]
pub fn compute_status(
    generation: i64,
    unreadable: Option<&str>,
    inline: &[String],
    evaluations: &[(ObjectRef, ObserverEvaluation)],
    before: &ObserverStatus,
    now: Timestamp,
) -> ObserverStatus {
    // Listeners that may not run it matter only where no other does.
    let said = Said {
        kept_out: evaluations
            .iter()
            .find_map(|(_, evaluation)| match evaluation {
                ObserverEvaluation::NotAllowed { message } => Some(&**message),
                _ => None,
            }),
        evaluations: evaluations
            .iter()
            .filter(|(_, evaluation)| evaluation.selected())
            .collect(),
    };
    let listeners: Vec<String> = said
        .evaluations
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
    let tracked = lately("Tracked").and_then(ConditionValue::of);
    let say = |type_: &str, value| condition(&before.conditions, type_, value, generation, now);
    let (accepted, programmed) = (said.accepted(unreadable, inline), said.programmed(ran));
    let kstatus = kstatus(&accepted, &programmed);
    let conditions = [
        say("Accepted", accepted),
        say("ResolvedRefs", said.resolved()),
        say("Programmed", programmed),
        say("Tracked", said.tracked(tracked)),
    ];
    ObserverStatus {
        observed_generation: generation,
        conditions: conditions
            .into_iter()
            .chain(kstatus.map(|(type_, value)| say(type_, value)))
            .collect(),
        listeners,
    }
}

/// Returns what kstatus cannot tell, as observers have no `Ready`: whether the resource itself is wrong, and whether
/// it does not run yet.
fn kstatus(
    accepted: &ConditionValue,
    programmed: &ConditionValue,
) -> Option<(&'static str, ConditionValue)> {
    let (type_, why) = if accepted.status == ConditionStatus::False {
        (STALLED, accepted)
    } else if programmed.status == ConditionStatus::False
        && !AS_ASKED.contains(&&*programmed.reason)
    {
        (RECONCILING, programmed)
    } else {
        return None;
    };
    let value = ConditionValue::new(ConditionStatus::True, &*why.reason, &*why.message);
    Some((type_, value))
}

/// Evaluations of an observer.
struct Said<'a> {
    /// Those by listeners that select it.
    evaluations: Vec<&'a (ObjectRef, ObserverEvaluation)>,
    /// Why a listener that would select it may not.
    kept_out: Option<&'a str>,
}

impl Said<'_> {
    fn accepted(&self, unreadable: Option<&str>, inline: &[String]) -> ConditionValue {
        let invalid = self
            .evaluations
            .iter()
            .find_map(|(_, evaluation)| match evaluation {
                ObserverEvaluation::Invalid { message } => Some(message.as_str()),
                _ => None,
            });
        if let Some(why) = unreadable.or(invalid) {
            return ConditionValue::new(ConditionStatus::False, "Invalid", why);
        }
        if self.evaluations.is_empty() {
            return self.not_selected(ConditionStatus::Unknown);
        }
        if inline.is_empty() {
            return ConditionValue::new(ConditionStatus::True, "Accepted", "the spec is valid");
        }
        let message = format!("the spec is valid, but {}", in_plain_sight(inline));
        ConditionValue::new(ConditionStatus::True, SECRETS_INLINE, message)
    }

    fn resolved(&self) -> ConditionValue {
        let missing = self
            .evaluations
            .iter()
            .find_map(|(_, evaluation)| match evaluation {
                ObserverEvaluation::Unresolved { reason, message } => Some((reason, message)),
                _ => None,
            });
        if let Some((reason, message)) = missing {
            return ConditionValue::new(ConditionStatus::False, &**reason, &**message);
        }
        if self.evaluations.is_empty() {
            return self.not_selected(ConditionStatus::Unknown);
        }
        let looked_at = |evaluation: &ObserverEvaluation| {
            matches!(
                evaluation,
                ObserverEvaluation::Programmed(_)
                    | ObserverEvaluation::Waiting { .. }
                    | ObserverEvaluation::LeftOut { .. }
            )
        };
        if self
            .evaluations
            .iter()
            .any(|(_, evaluation)| looked_at(evaluation))
        {
            return ConditionValue::new(
                ConditionStatus::True,
                "ResolvedRefs",
                "everything that it refers to exists",
            );
        }
        if self
            .evaluations
            .iter()
            .any(|(_, evaluation)| *evaluation == ObserverEvaluation::Suspended)
        {
            return ConditionValue::new(
                ConditionStatus::Unknown,
                "Suspended",
                "its Secrets are checked once it is no longer suspended",
            );
        }
        ConditionValue::new(
            ConditionStatus::Unknown,
            "Invalid",
            "its Secrets are checked once its spec is valid",
        )
    }

    fn programmed(&self, ran: bool) -> ConditionValue {
        if self.evaluations.is_empty() {
            return self.not_selected(ConditionStatus::False);
        }
        let no = |listener: &ObjectRef, reason: &str, message: &str| {
            ConditionValue::new(
                ConditionStatus::False,
                reason,
                format!("listener {listener} does not run it: {message}"),
            )
        };
        let mut waiting = None;
        for (listener, evaluation) in &self.evaluations {
            match evaluation {
                ObserverEvaluation::Invalid { message } => return no(listener, "Invalid", message),
                ObserverEvaluation::Unresolved { reason, message } => {
                    return no(listener, reason, message);
                }
                ObserverEvaluation::LeftOut { message } => {
                    return no(listener, BUNDLE_TOO_LARGE, message);
                }
                ObserverEvaluation::Suspended => {
                    return ConditionValue::new(
                        ConditionStatus::False,
                        "Suspended",
                        "events are skipped while spec.suspend is true",
                    );
                }
                ObserverEvaluation::Waiting { reason, message } => {
                    let stops = reason == "ScaledToZero";
                    if waiting.is_none() && (stops || !ran) {
                        waiting = Some(no(listener, reason, message));
                    }
                }
                ObserverEvaluation::Programmed(_) | ObserverEvaluation::NotAllowed { .. } => {}
            }
        }
        waiting.unwrap_or_else(|| {
            ConditionValue::new(
                ConditionStatus::True,
                "Programmed",
                "every listener that selects it runs it",
            )
        })
    }

    /// Computes whether the databases of all listeners log what it watches. Until pods report, the
    /// value `before` stays, as bundles and pods come and go.
    fn tracked(&self, before: Option<ConditionValue>) -> ConditionValue {
        if self.evaluations.is_empty() {
            return self.not_selected(ConditionStatus::Unknown);
        }
        let unknown = |reason: &str, message: &str| {
            ConditionValue::new(ConditionStatus::Unknown, reason, message)
        };
        let mut open = None;
        let mut waits = false;
        for (listener, evaluation) in &self.evaluations {
            let why = match evaluation {
                ObserverEvaluation::Programmed(Tracked::No { reason, message }) => {
                    let message = format!("listener {listener}: {message}");
                    return ConditionValue::new(ConditionStatus::False, &**reason, message);
                }
                ObserverEvaluation::Suspended => unknown(
                    "Suspended",
                    "its table is checked once spec.suspend is false",
                ),
                ObserverEvaluation::Invalid { .. } => {
                    unknown("Invalid", "its table is checked once its spec is valid")
                }
                ObserverEvaluation::LeftOut { .. } => unknown(
                    BUNDLE_TOO_LARGE,
                    "its table is checked once the listener has room for it",
                ),
                ObserverEvaluation::Unresolved { reason, .. } => unknown(
                    reason,
                    "its table is checked once everything that it refers to exists",
                ),
                ObserverEvaluation::Waiting { reason, .. } if reason == "ScaledToZero" => {
                    unknown(reason, "no pod runs that could check its table")
                }
                ObserverEvaluation::Programmed(Tracked::Unknown)
                | ObserverEvaluation::Waiting { .. } => {
                    waits = true;
                    continue;
                }
                ObserverEvaluation::Programmed(Tracked::Yes)
                | ObserverEvaluation::NotAllowed { .. } => continue,
            };
            open.get_or_insert(why);
        }
        match open {
            Some(why) => why,
            None if waits => before.unwrap_or_else(|| {
                unknown(
                    "Pending",
                    "no pod has reported yet whether the database captures what it watches; where they find more than \
                     a report has room for, the rest is in their logs",
                )
            }),
            None => ConditionValue::new(
                ConditionStatus::True,
                "AsExpected",
                "the database captures what it watches, with all columns that it reads",
            ),
        }
    }

    fn not_selected(&self, status: ConditionStatus) -> ConditionValue {
        if let Some(why) = self.kept_out {
            return ConditionValue::new(status, "NamespaceNotAllowed", why);
        }
        ConditionValue::new(
            status,
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
        ["Accepted", "ResolvedRefs", "Programmed", "Tracked"]
            .map(pair)
            .to_vec()
    }

    const RUNS: ObserverEvaluation = ObserverEvaluation::Programmed(Tracked::Yes);

    fn pairs(expected: [(&str, &str); 4]) -> Vec<(String, String)> {
        expected
            .map(|(status, reason)| (status.to_owned(), reason.to_owned()))
            .to_vec()
    }

    fn of(evaluations: &[ObserverEvaluation], before: &ObserverStatus) -> ObserverStatus {
        let evaluations: Vec<_> = evaluations
            .iter()
            .enumerate()
            .map(|(index, evaluation)| {
                (
                    ObjectRef::new("shop", format!("l{index}")),
                    evaluation.clone(),
                )
            })
            .collect();
        compute_status(2, None, &[], &evaluations, before, Timestamp::UNIX_EPOCH)
    }

    fn waiting(reason: &str) -> ObserverEvaluation {
        ObserverEvaluation::Waiting {
            reason: reason.to_owned(),
            message: String::new(),
        }
    }

    #[test]
    fn observer_without_room_is_valid_and_does_not_run() {
        let left_out = ObserverEvaluation::LeftOut {
            message: "older ones take it".to_owned(),
        };
        let status = of(&[RUNS, left_out], &ObserverStatus::default());
        let expected = [
            ("True", "Accepted"),
            ("True", "ResolvedRefs"),
            ("False", "BundleTooLarge"),
            ("Unknown", "BundleTooLarge"),
        ];
        assert_eq!(said(&status), pairs(expected));
        let programmed = find(&status.conditions, "Programmed").unwrap();
        assert!(
            programmed.message.contains("older ones take it"),
            "{programmed:?}"
        );
    }

    #[test]
    fn secrets_in_plain_sight_are_told_and_keep_nothing_from_running() {
        let inline = ["spec.actions[0].webhook.headers.Authorization".to_owned()];
        let all = [(ObjectRef::new("shop", "l"), RUNS)];
        let (before, now) = (ObserverStatus::default(), Timestamp::UNIX_EPOCH);
        let status = compute_status(2, None, &inline, &all, &before, now);
        let accepted = find(&status.conditions, "Accepted").unwrap();
        assert_eq!(
            (&*accepted.status, &*accepted.reason),
            ("True", "SecretsInline")
        );
        assert!(accepted.message.contains(&inline[0]), "{accepted:?}");
        // What is wrong is told first.
        let status = compute_status(2, Some("no spec"), &inline, &all, &before, now);
        let accepted = find(&status.conditions, "Accepted").unwrap();
        assert_eq!(accepted.reason, "Invalid");
    }

    #[test]
    fn each_evaluation_shows_in_its_condition() {
        let missing = ObserverEvaluation::Unresolved {
            reason: "SecretMissing".into(),
            message: String::new(),
        };
        let invalid = ObserverEvaluation::Invalid {
            message: String::new(),
        };
        let kept_out = ObserverEvaluation::not_allowed(
            &ObjectRef::new("ops", "l"),
            &ObjectRef::new("shop", "o"),
            true,
        );
        for (evaluations, expected) in [
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
                    ("True", "ResolvedRefs"),
                    ("True", "Programmed"),
                    ("True", "AsExpected"),
                ],
            ),
            (
                vec![RUNS, waiting("Pending")],
                [
                    ("True", "Accepted"),
                    ("True", "ResolvedRefs"),
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
                    ("True", "ResolvedRefs"),
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
                vec![ObserverEvaluation::Suspended],
                [
                    ("True", "Accepted"),
                    ("Unknown", "Suspended"),
                    ("False", "Suspended"),
                    ("Unknown", "Suspended"),
                ],
            ),
        ] {
            let status = of(&evaluations, &ObserverStatus::default());
            assert_eq!(said(&status), pairs(expected), "{evaluations:?}");
        }
    }

    #[test]
    fn kstatus_conditions_are_there_while_they_are_true() {
        let invalid = ObserverEvaluation::Invalid {
            message: String::new(),
        };
        for (evaluations, expected) in [
            (vec![], Some((RECONCILING, "NotSelected"))),
            (vec![RUNS], None),
            (
                vec![RUNS, waiting("Pending")],
                Some((RECONCILING, "Pending")),
            ),
            (vec![waiting("ScaledToZero")], None),
            (vec![ObserverEvaluation::Suspended], None),
            (vec![RUNS, invalid], Some((STALLED, "Invalid"))),
        ] {
            let conditions = of(&evaluations, &ObserverStatus::default()).conditions;
            let found = conditions.get(4).map(|one| {
                assert_eq!(one.status, "True");
                (&*one.type_, &*one.reason)
            });
            assert_eq!(found, expected, "{evaluations:?}");
        }
    }

    #[test]
    fn programmed_observer_stays_so_during_a_rollout() {
        let ran = of(&[RUNS], &ObserverStatus::default());
        assert_eq!(of(&[waiting("Pending")], &ran), ran);
        let stopped = of(&[waiting("ScaledToZero")], &ran);
        assert_eq!(said(&stopped)[2], ("False".into(), "ScaledToZero".into()));
        let more = of(&[RUNS, waiting("Pending")], &ran);
        assert_eq!(said(&more)[2], ("False".into(), "Pending".into()));
    }
    fn untracked(message: &str) -> ObserverEvaluation {
        ObserverEvaluation::Programmed(Tracked::No {
            reason: "TableNotTracked".to_owned(),
            message: message.to_owned(),
        })
    }

    fn tracked(status: &ObserverStatus) -> (&str, &str, &str) {
        let found = find(&status.conditions, "Tracked").unwrap();
        (&found.status, &found.reason, &found.message)
    }

    #[test]
    fn listener_whose_database_does_not_log_it_is_named() {
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
    fn tracked_stays_until_pods_report_and_heals() {
        let unknown = ObserverEvaluation::Programmed(Tracked::Unknown);
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
