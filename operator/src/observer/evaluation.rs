//! Evaluation of an observer by a listener that selects it: a pure function.

use std::collections::{BTreeMap, BTreeSet};

use crds::pod_status::{PodReport, Role, TrackingFinding};
use crds::v1alpha1::consent;

use crate::object_ref::ObjectRef;

/// State of an observer in a listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ObserverEvaluation {
    /// Every active pod runs it, and so do the pods that stand by.
    Programmed(Tracked),
    /// It is valid and suspended.
    Suspended,
    /// It is invalid.
    Invalid {
        /// What is wrong, and what would be right.
        message: String,
    },
    /// It refers to something that does not exist.
    Unresolved {
        /// The reason.
        reason: String,
        /// What is missing.
        message: String,
    },
    /// Its namespace does not allow the listener, so nothing else of it is read.
    NotAllowed {
        /// Who must allow what.
        message: String,
    },
    /// It is valid, and the listener has no room for it.
    LeftOut {
        /// What takes the room, and what would make some.
        message: String,
    },
    /// It is valid and does not run yet.
    Waiting {
        /// The reason.
        reason: String,
        /// The message.
        message: String,
    },
}

/// Whether the database logs what an observer watches, as the pods found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Tracked {
    /// No pod has reported it.
    #[default]
    Unknown,
    /// It does.
    Yes,
    /// It does not, or not all that the observer looks at.
    No {
        /// The reason.
        reason: String,
        /// Where and why, with the remedy.
        message: String,
    },
}

impl ObserverEvaluation {
    /// Creates the evaluation of an observer whose namespace does not allow the listener. `labelled`
    /// says whether a label would change that.
    #[must_use]
    pub fn not_allowed(listener: &ObjectRef, observer: &ObjectRef, labelled: bool) -> Self {
        let (own, namespace) = (&listener.namespace, &observer.namespace);
        let remedy = if labelled {
            let (label, value) = consent(own);
            format!(
                "namespace {namespace} does not allow listeners of namespace {own}; an administrator of the \
                 cluster allows them with `kubectl label namespace {namespace} {label}={value}`"
            )
        } else {
            "the operator serves a list of namespaces and cannot see what they allow, so a listener \
             runs the observers of its own namespace alone"
                .to_owned()
        };
        Self::NotAllowed {
            message: format!("listener {listener} would run it, but {remedy}"),
        }
    }

    /// Returns whether the listener selects the observer.
    #[must_use]
    pub const fn selected(&self) -> bool {
        !matches!(self, Self::NotAllowed { .. })
    }

    /// Returns whether the observer is rejected.
    #[must_use]
    pub const fn is_rejected(&self) -> bool {
        matches!(
            self,
            Self::Invalid { .. } | Self::Unresolved { .. } | Self::LeftOut { .. }
        )
    }
}

/// Why no observer of a listener runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlockedReason {
    /// The reason.
    pub reason: String,
    /// The message.
    pub message: String,
}

/// Evaluates the observers of a listener by the reports of its pods.
///
/// `before` holds the evaluations that need no pod, and `None` for observers in the bundle. Reports of
/// pods that run another bundle than `bundle` do not count.
#[must_use]
pub fn evaluate(
    before: &BTreeMap<ObjectRef, Option<ObserverEvaluation>>,
    bundle: Option<&str>,
    reports: &[&PodReport],
    blocked: Option<&BlockedReason>,
) -> BTreeMap<ObjectRef, ObserverEvaluation> {
    let runs = |report: &&PodReport| bundle.is_some() && report.bundle.as_deref() == bundle;
    let current: Vec<&&PodReport> = reports.iter().filter(|report| runs(report)).collect();
    let mut refusals: BTreeMap<&str, String> = BTreeMap::new();
    for refusal in current.iter().flat_map(|report| &report.refused) {
        refusals
            .entry(&refusal.observer)
            .or_insert_with(|| format!("{}: {}", refusal.path, refusal.message));
    }
    // One that stands by may have a shard in the next moment.
    let mut taking_part = reports
        .iter()
        .filter(|report| matches!(report.role, Role::Active | Role::Standby));
    let tracking = Tracking::of(&current);
    let works = current.iter().any(|report| report.role == Role::Active);
    let at_work = works && taking_part.all(runs);
    before
        .iter()
        .map(|(observer, evaluation)| {
            let evaluation = match evaluation {
                Some(evaluation) => evaluation.clone(),
                None => match (refusals.get(&*observer.to_string()), blocked) {
                    (Some(message), _) => ObserverEvaluation::Invalid {
                        message: message.clone(),
                    },
                    (None, Some(why)) => ObserverEvaluation::Waiting {
                        reason: why.reason.clone(),
                        message: why.message.clone(),
                    },
                    (None, None) if at_work => {
                        ObserverEvaluation::Programmed(tracking.of_observer(&observer.to_string()))
                    }
                    (None, None) => ObserverEvaluation::Waiting {
                        reason: "Pending".to_owned(),
                        message: "the active pods have not loaded it yet".to_owned(),
                    },
                },
            };
            (observer.clone(), evaluation)
        })
        .collect()
}

/// Findings of the pods about tables that the database does not log.
struct Tracking<'a> {
    found: BTreeMap<&'a str, BTreeSet<&'a TrackingFinding>>,
    /// Whether a pod reported on all observers.
    complete: bool,
}

impl<'a> Tracking<'a> {
    fn of(reports: &[&&'a PodReport]) -> Self {
        let mut this = Self {
            found: BTreeMap::new(),
            complete: false,
        };
        for report in reports {
            // Others do not look any more.
            let looks = matches!(report.role, Role::Active | Role::Standby);
            let Some(said) = report.tracking.as_ref().filter(|_| looks) else {
                continue;
            };
            this.complete |= said.left_out == 0;
            for one in &said.findings {
                this.found.entry(&one.observer).or_default().insert(one);
            }
        }
        this
    }

    /// Returns the first of the findings in a stable order: the pods come in none.
    fn of_observer(&self, observer: &str) -> Tracked {
        let found = self.found.get(observer);
        match found.and_then(|found| Some((found.first()?, found.len() - 1))) {
            Some((first, more)) => {
                let more = match more {
                    0 => String::new(),
                    more => format!(" (and {more} more)"),
                };
                Tracked::No {
                    reason: first.reason.clone(),
                    message: format!("{}: {}{more}", first.path, first.message),
                }
            }
            None if self.complete => Tracked::Yes,
            None => Tracked::Unknown,
        }
    }
}

#[cfg(test)]
mod tests {
    use crds::pod_status::{ObserverError, OpenCircuitBreakers, TABLE_NOT_TRACKED, TrackingReport};

    use super::*;

    fn report(role: Role, bundle: &str, refused: &[&str]) -> PodReport {
        let refusal = |observer: &&str| ObserverError {
            observer: (*observer).to_owned(),
            path: "spec.when".to_owned(),
            message: "has no `totl`; write `total`".to_owned(),
        };
        PodReport {
            pod: "shop-1".to_owned(),
            role,
            bundle: Some(bundle.to_owned()),
            refused: refused.iter().map(refusal).collect(),
            problem: None,
            shards: Vec::new(),
            stalled: Vec::new(),
            tracking: None,
            open_circuit_breakers: OpenCircuitBreakers::default(),
            members: 1,
            lag_seconds: 0,
            backlog: 0,
            pending: 0,
            search: None,
            source: None,
        }
    }

    fn observers() -> BTreeMap<ObjectRef, Option<ObserverEvaluation>> {
        BTreeMap::from([
            (ObjectRef::new("shop", "a"), None),
            (ObjectRef::new("shop", "b"), None),
            (
                ObjectRef::new("shop", "c"),
                Some(ObserverEvaluation::Suspended),
            ),
        ])
    }

    fn evaluated(
        reports: &[&PodReport],
        blocked: Option<&BlockedReason>,
    ) -> Vec<ObserverEvaluation> {
        evaluate(&observers(), Some("1"), reports, blocked)
            .into_values()
            .collect()
    }

    #[test]
    fn active_pods_run_what_no_pod_rejects() {
        let (active, standby) = (
            report(Role::Active, "1", &[]),
            report(Role::Standby, "1", &["shop/b"]),
        );
        let evaluations = evaluated(&[&active, &standby], None);
        assert_eq!(
            evaluations[0],
            ObserverEvaluation::Programmed(Tracked::Unknown)
        );
        assert_eq!(
            evaluations[1],
            ObserverEvaluation::Invalid {
                message: "spec.when: has no `totl`; write `total`".to_owned()
            }
        );
        assert_eq!(evaluations[2], ObserverEvaluation::Suspended);
    }

    #[test]
    fn every_active_pod_must_run_it() {
        let (new, old) = (
            report(Role::Active, "1", &[]),
            report(Role::Active, "0", &[]),
        );
        assert!(matches!(
            &evaluated(&[&new, &old], None)[0],
            ObserverEvaluation::Waiting { .. }
        ));
        assert_eq!(
            evaluated(&[&new, &new], None)[0],
            ObserverEvaluation::Programmed(Tracked::Unknown)
        );
        // A pod that ends, or does not take part yet, holds nobody up; one that may take over does.
        let rest = [
            report(Role::Stopping, "0", &[]),
            report(Role::Starting, "0", &[]),
        ];
        let evaluations = evaluated(&[&new, &rest[0], &rest[1]], None);
        assert_eq!(
            evaluations[0],
            ObserverEvaluation::Programmed(Tracked::Unknown)
        );
        let standby = report(Role::Standby, "0", &[]);
        assert!(matches!(
            &evaluated(&[&new, &standby], None)[0],
            ObserverEvaluation::Waiting { .. }
        ));
    }

    #[test]
    fn reports_of_another_bundle_do_not_count() {
        let old = report(Role::Active, "0", &["shop/b"]);
        let evaluations = evaluated(&[&old], None);
        assert!(evaluations[..2].iter().all(
            |evaluation| matches!(evaluation, ObserverEvaluation::Waiting { reason, .. } if reason == "Pending")
        ));
    }

    fn found(observer: &str, path: &str) -> TrackingFinding {
        TrackingFinding {
            observer: observer.to_owned(),
            path: path.to_owned(),
            reason: TABLE_NOT_TRACKED.to_owned(),
            message: "track it".to_owned(),
        }
    }

    #[test]
    fn pods_report_untracked_tables() {
        let mut pods = [
            report(Role::Active, "1", &[]),
            report(Role::Standby, "1", &[]),
            report(Role::Stopping, "1", &[]),
        ];
        let tracked = |pods: &[PodReport]| {
            let reports: Vec<&PodReport> = pods.iter().collect();
            evaluated(&reports, None)
        };
        pods[2].tracking = Some(TrackingReport::default());
        assert_eq!(
            tracked(&pods)[0],
            ObserverEvaluation::Programmed(Tracked::Unknown)
        );
        pods[0].tracking = Some(TrackingReport::default());
        assert_eq!(
            tracked(&pods)[0],
            ObserverEvaluation::Programmed(Tracked::Yes)
        );
        // One that says so is enough, whichever it is.
        pods[1].tracking = Some(TrackingReport {
            findings: vec![
                found("shop/a", "spec.events.entity"),
                found("shop/a", "spec.when"),
            ],
            left_out: 0,
        });
        let no = ObserverEvaluation::Programmed(Tracked::No {
            reason: TABLE_NOT_TRACKED.to_owned(),
            message: "spec.events.entity: track it (and 1 more)".to_owned(),
        });
        let said = tracked(&pods);
        assert_eq!(
            (&said[0], &said[1]),
            (&no, &ObserverEvaluation::Programmed(Tracked::Yes))
        );
        pods.reverse();
        assert_eq!(tracked(&pods), said);
    }

    #[test]
    fn truncated_report_leaves_the_rest_unknown() {
        let mut pod = report(Role::Active, "1", &[]);
        pod.tracking = Some(TrackingReport {
            findings: vec![found("shop/a", "spec.when")],
            left_out: 3,
        });
        let said = evaluated(&[&pod], None);
        assert!(matches!(
            said[0],
            ObserverEvaluation::Programmed(Tracked::No { .. })
        ));
        assert_eq!(said[1], ObserverEvaluation::Programmed(Tracked::Unknown));
    }

    #[test]
    fn blocked_listener_blocks_its_observers() {
        let why = BlockedReason {
            reason: "ScaledToZero".to_owned(),
            message: String::new(),
        };
        let evaluations = evaluated(&[], Some(&why));
        assert!(
            matches!(&evaluations[0], ObserverEvaluation::Waiting { reason, .. } if reason == "ScaledToZero")
        );
        assert_eq!(evaluations[2], ObserverEvaluation::Suspended);
    }
}
