//! What is said about a listener.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use crds::pod_status::{
    BreakerState, OpenCircuitBreaker, OpenCircuitBreakers, OwnedShard, PodProblem, SHARD_UNOWNED,
    StalledShard,
};

use super::*;
use crate::conditions::{RECONCILING, STALLED};

/// Everything that is seen of a listener, with a change to it.
pub(super) struct Case {
    pub(super) wanted: i32,
    pub(super) search: bool,
    shards: u16,
    unowned_since: UnownedShards,
    inline: Vec<String>,
    rejection: Option<Rejection>,
    deployment: Option<DeploymentInfo>,
    workers: (i32, Option<DeploymentInfo>, Option<i64>),
    pods: Vec<PodView>,
    evaluations: BTreeMap<ObjectRef, ObserverEvaluation>,
    before: ObserverListenerStatus,
    now: i64,
}

impl Case {
    /// One pod that delivers.
    pub(super) fn well() -> Self {
        Self {
            wanted: 1,
            search: false,
            shards: 1,
            unowned_since: UnownedShards::default(),
            inline: Vec::new(),
            rejection: None,
            deployment: Some(rolled_out(1)),
            workers: (0, None, None),
            pods: vec![pod("p1", Some(report(Role::Active, "new")))],
            evaluations: BTreeMap::new(),
            before: ObserverListenerStatus::default(),
            now: 1000,
        }
    }

    pub(super) fn but(change: impl FnOnce(&mut Self)) -> Self {
        let mut case = Self::well();
        change(&mut case);
        case
    }

    pub(super) fn status(&self) -> ObserverListenerStatus {
        let seen = StatusInput {
            namespace: "shop",
            name: "shop",
            generation: 3,
            wanted: self.wanted,
            autoscaling: None,
            shards: self.shards,
            stalled_after: Duration::from_mins(1),
            unowned_since: &self.unowned_since,
            search: self.search,
            inline: &self.inline,
            rejection: self.rejection.as_ref(),
            bundle: self.rejection.is_none().then_some("new"),
            deployment: self.deployment.as_ref(),
            workers: Workers {
                wanted: self.workers.0,
                deployment: self.workers.1.as_ref(),
                short: self.workers.2.map(|at| Timestamp::from_second(at).unwrap()),
            },
            pods: &self.pods,
            evaluations: &self.evaluations,
        };
        compute_status(seen, &self.before, self.now())
    }

    fn now(&self) -> Timestamp {
        Timestamp::from_second(self.now).unwrap()
    }

    /// What is seen now is noted, and becomes what was said before.
    fn look(&mut self) -> ObserverListenerStatus {
        self.unowned_since
            .update(&self.pods, self.shards, self.now());
        self.before = self.status();
        self.before.clone()
    }

    pub(super) fn message(&self, type_: &str) -> String {
        find(&self.status().conditions, type_)
            .unwrap()
            .message
            .clone()
    }

    /// `Ready Progressing Degraded DeliveryStalled`, and `HistoryLagging` where there is a history,
    /// each as its status and reason.
    pub(super) fn says(&self) -> String {
        let status = self.status();
        let of_kstatus = |type_: &str| [RECONCILING, STALLED].contains(&type_);
        let conditions = status.conditions.iter();
        let said = conditions
            .filter(|one| !of_kstatus(&one.type_))
            .map(|condition| {
                assert_eq!(condition.observed_generation, Some(3));
                assert!(!condition.message.is_empty());
                format!("{}:{}", condition.status, condition.reason)
            });
        said.collect::<Vec<_>>().join(" ")
    }
}

fn rolled_out(pods: i32) -> DeploymentInfo {
    DeploymentInfo {
        generation: 1,
        observed: 1,
        wanted: pods,
        replicas: pods,
        updated: pods,
        ready: pods,
        available: pods,
        stuck: None,
    }
}

fn owned(shard: u16, epoch: i64) -> OwnedShard {
    OwnedShard {
        shard,
        epoch,
        since: "2026-01-01T00:00:00Z".to_owned(),
        lag_seconds: 0,
    }
}

/// One that owns shard 0 if it works.
fn report(role: Role, bundle: &str) -> PodReport {
    let works = role == Role::Active;
    PodReport {
        pod: "p1".to_owned(),
        role,
        bundle: Some(bundle.to_owned()),
        refused: Vec::new(),
        problem: None,
        shards: works.then(|| owned(0, 1)).into_iter().collect(),
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

fn pod(name: &str, report: Option<PodReport>) -> PodView {
    PodView {
        name: name.to_owned(),
        seen: PodInfo {
            listener: ObjectRef::new("web", "shop"),
            worker: false,
            ip: Some("10.0.0.1".to_owned()),
            ready: true,
            terminating: false,
            waiting: None,
        },
        report: report.map(|report| PodReport {
            pod: name.to_owned(),
            ..report
        }),
    }
}

fn trouble(reason: &str) -> PodProblem {
    PodProblem {
        reason: reason.to_owned(),
        message: "it is away".to_owned(),
    }
}

pub(super) fn change_report(case: &mut Case, change: impl FnOnce(&mut PodReport)) {
    change(case.pods[0].report.as_mut().unwrap());
}

#[test]
fn each_state_has_its_conditions() {
    let stuck = |case: &mut Case| {
        let deployment = case.deployment.as_mut().unwrap();
        (deployment.updated, deployment.available) = (0, 0);
        deployment.stuck = Some("quota exceeded".to_owned());
        case.pods.clear();
    };
    let refused = Rejection {
        reason: "SecretMissing".to_owned(),
        message: "there is no Secret".to_owned(),
    };
    for (case, says) in [
        (
            Case::well(),
            "True:Delivering False:UpToDate False:AsExpected False:MakingProgress",
        ),
        (
            Case::but(|case| (case.deployment, case.pods) = (None, vec![])),
            "False:Starting True:RollingOut False:AsExpected Unknown:NoActivePod",
        ),
        (
            Case::but(|case| case.rejection = Some(refused)),
            "False:SecretMissing False:SecretMissing False:AsExpected False:MakingProgress",
        ),
        (
            Case::but(|case| {
                case.wanted = 0;
                (case.deployment, case.pods) = (Some(rolled_out(0)), vec![]);
            }),
            "False:ScaledToZero False:UpToDate False:AsExpected False:ScaledToZero",
        ),
        (
            Case::but(stuck),
            "False:PodsNotRunning False:RolloutStuck True:RolloutStuck Unknown:NoActivePod",
        ),
        (
            Case::but(|case| {
                change_report(case, |report| {
                    report.problem = Some(trouble("DatabaseUnreachable"));
                });
            }),
            "False:DatabaseUnreachable False:UpToDate True:DatabaseUnreachable False:MakingProgress",
        ),
        (
            Case::but(|case| {
                change_report(case, |report| {
                    report.problem = Some(trouble("DeliveryStalled"));
                });
            }),
            "False:DeliveryStalled False:UpToDate True:DeliveryStalled True:DeliveryStalled",
        ),
        (
            Case::but(|case| {
                change_report(case, |report| {
                    report.source = Some(trouble("SlotLost"));
                });
            }),
            "True:Delivering False:UpToDate True:SlotLost False:MakingProgress",
        ),
        (
            Case::but(|case| {
                change_report(case, |report| {
                    (report.lag_seconds, report.backlog) = (61, 5);
                });
            }),
            "True:Delivering False:UpToDate False:AsExpected False:Lagging",
        ),
        (
            Case::but(|case| case.pods[0].report = None),
            "False:PodsNotReporting True:LoadingBundle False:AsExpected Unknown:NoActivePod",
        ),
        (
            Case::but(|case| {
                case.pods[0].report = None;
                case.pods[0].seen.waiting = Some("ImagePullBackOff".to_owned());
            }),
            "False:PodsNotRunning True:LoadingBundle False:AsExpected Unknown:NoActivePod",
        ),
        (
            Case::but(|case| case.pods[0].report = Some(report(Role::Standby, "new"))),
            "False:Starting False:UpToDate False:AsExpected Unknown:NoActivePod",
        ),
    ] {
        assert_eq!(case.says(), says);
    }
}

#[test]
fn kstatus_conditions_are_there_while_they_are_true() {
    let rejected = |reason: &str| {
        Case::but(|case| {
            case.rejection = Some(Rejection {
                reason: reason.to_owned(),
                message: "it is wrong".to_owned(),
            });
        })
    };
    let rolling = Case::but(|case| case.deployment.as_mut().unwrap().updated = 0);
    let stuck = Case::but(|case| {
        let deployment = case.deployment.as_mut().unwrap();
        (deployment.updated, deployment.stuck) = (0, Some("quota exceeded".to_owned()));
    });
    let unreachable = Case::but(|case| {
        change_report(case, |report| {
            report.problem = Some(trouble("DatabaseUnreachable"));
        });
    });
    for (case, expected) in [
        (Case::well(), None),
        (unreachable, None),
        (rejected("SecretMissing"), None),
        (rejected("Invalid"), Some((STALLED, "Invalid"))),
        (rolling, Some((RECONCILING, "RollingOut"))),
        (stuck, Some((RECONCILING, "RolloutStuck"))),
    ] {
        let conditions = case.status().conditions;
        let found = conditions
            .iter()
            .find(|one| [RECONCILING, STALLED].contains(&&*one.type_));
        let found = found.map(|one| {
            assert_eq!(one.status, "True");
            (&*one.type_, &*one.reason)
        });
        assert_eq!(found, expected);
    }
}

#[test]
fn new_bundle_may_take_a_while_to_load() {
    let mut case = Case::but(|case| case.before = Case::well().status());
    change_report(&mut case, |report| report.bundle = Some("old".to_owned()));
    case.now += 100;
    assert!(
        case.says()
            .starts_with("True:Delivering True:LoadingBundle")
    );
    case.before = case.status();
    case.now += 29;
    assert!(
        case.says()
            .starts_with("True:Delivering True:LoadingBundle")
    );
    case.now += 2;
    assert!(
        case.says()
            .starts_with("False:BundleNotLoaded True:LoadingBundle")
    );
    // What never was ready does not become so by an old bundle.
    case.before = ObserverListenerStatus::default();
    assert!(
        case.says()
            .starts_with("False:BundleNotLoaded True:LoadingBundle")
    );
}

#[test]
fn rejected_observers_leave_the_listener_ready() {
    let case = Case::but(|case| {
        let refused = |message: &str| ObserverEvaluation::Invalid {
            message: message.to_owned(),
        };
        case.evaluations = [
            (
                ObjectRef::new("web", "a"),
                ObserverEvaluation::Programmed(Tracked::Yes),
            ),
            (ObjectRef::new("web", "b"), refused("x")),
            (ObjectRef::new("web", "c"), ObserverEvaluation::Suspended),
        ]
        .into();
    });
    assert!(
        case.says()
            .starts_with("True:Delivering False:UpToDate True:InvalidObservers")
    );
    let status = case.status();
    let message = &find(&status.conditions, "Degraded").unwrap().message;
    assert!(
        message.starts_with("1 of 3 observers do not run (web/b)"),
        "{message}"
    );
    let counts = status.observers;
    assert_eq!(
        (counts.selected, counts.programmed, counts.rejected),
        (3, 1, 1)
    );
}

#[test]
fn disallowed_namespaces_do_not_degrade() {
    let (listener, observer) = (ObjectRef::new("shop", "shop"), ObjectRef::new("crm", "a"));
    let case = Case::but(|case| {
        let evaluation = ObserverEvaluation::not_allowed(&listener, &observer, true);
        case.evaluations = BTreeMap::from([(observer, evaluation)]);
    });
    assert_eq!(case.status().observers, ObserverCounts::default());
    let message = case.message("Degraded");
    assert!(case.says().contains("False:NamespaceNotAllowed"));
    assert!(
        message.contains("listeners.observers.fraiseql.dev/shop=allowed"),
        "{message}"
    );
    // Whose they are is theirs to tell.
    assert!(!message.contains("crm"), "{message}");
}

#[test]
fn secrets_in_plain_sight_are_told_and_degrade_nothing() {
    let case = Case::but(|case| case.inline = vec!["spec.database.url".to_owned()]);
    assert!(
        case.says().contains("False:SecretsInline"),
        "{}",
        case.says()
    );
    let message = case.message("Degraded");
    assert!(
        message.contains("spec.database.url") && message.contains("secretKeyRef"),
        "{message}"
    );
}

#[test]
fn same_input_gives_the_same_status_at_any_time() {
    let mut case = Case::well();
    case.before = case.status();
    case.now += 12345;
    assert_eq!(case.status(), case.before);
    assert!(is_settled(&case.before));
}

#[test]
fn numbers_alone_carry_over() {
    let before = Case::well().status();
    let mut after = Case::but(|case| {
        change_report(case, |report| {
            (report.lag_seconds, report.backlog) = (5, 100);
            report.shards[0].lag_seconds = 5;
        });
    })
    .status();
    assert_eq!((after.lag.as_deref(), after.backlog), (Some("5s"), 100));
    carry_over_numbers(&mut after, &before);
    assert_eq!((after.lag.as_deref(), after.backlog), (Some("0s"), 0));
    assert_eq!(after, before);
}

#[path = "shards_tests.rs"]
mod shards;

#[test]
fn missing_workers_degrade_after_a_while() {
    let degraded = |workers: (i32, Option<DeploymentInfo>, Option<i64>)| {
        let case = Case::but(|case| case.workers = workers);
        let said = case.says();
        assert!(
            said.starts_with("True:Delivering False:UpToDate "),
            "{said}"
        );
        let reason = said.split(' ').nth(2).unwrap().to_owned();
        (reason, case.message("Degraded"))
    };
    let one_of_two = || DeploymentInfo {
        ready: 1,
        ..rolled_out(2)
    };
    let (reason, _) = degraded((2, Some(rolled_out(2)), None));
    assert_eq!(reason, "False:AsExpected");
    let (reason, _) = degraded((2, Some(one_of_two()), Some(940)));
    assert_eq!(reason, "False:AsExpected", "not yet");
    let (reason, message) = degraded((2, Some(one_of_two()), Some(939)));
    assert_eq!(reason, "True:WorkersUnavailable");
    assert_eq!(
        message,
        "only 1 of 2 worker pods is ready, for more than 1m; see kubectl describe of the pods, \
         and their logs"
    );
    let (reason, message) = degraded((2, None, Some(900)));
    assert_eq!(reason, "True:WorkersUnavailable");
    assert!(
        message.starts_with("none of 2 worker pods is ready"),
        "{message}"
    );
    let stuck = DeploymentInfo {
        stuck: Some("quota exceeded".to_owned()),
        ..one_of_two()
    };
    let (reason, message) = degraded((2, Some(stuck), Some(999)));
    assert_eq!(reason, "True:WorkersUnavailable");
    assert_eq!(message, "the worker pods do not run: quota exceeded");
}

#[test]
fn workers_are_counted_apart() {
    let case = Case::but(|case| case.workers = (3, Some(rolled_out(3)), None));
    let status = case.status();
    assert_eq!((status.replicas, status.ready_replicas), (1, 1));
    let workers = status.workers.unwrap();
    assert_eq!((workers.replicas, workers.ready_replicas), (3, 3));
    assert!(Case::well().status().workers.is_none());
}

#[test]
fn open_circuit_breakers_change_with_the_set_only() {
    let open = |endpoint: &str, since: &str, state| OpenCircuitBreaker {
        since: since.to_owned(),
        endpoint: endpoint.to_owned(),
        state,
        actions: 1,
    };
    let pods = |since: &str, state| {
        [("p1", Role::Active), ("p2", Role::Standby)].map(|(name, role)| {
            let mut report = report(role, "new");
            report.open_circuit_breakers.endpoints = vec![
                open("https://b:443", since, state),
                open(&format!("https://{name}:443"), since, state),
            ];
            pod(name, Some(report))
        })
    };
    let mut case = Case::but(|case| case.pods = pods("1", BreakerState::Open).to_vec());
    let shown = case.look();
    assert_eq!(
        shown.open_circuit_breakers,
        ["https://b:443", "https://p1:443", "https://p2:443"]
    );
    case.pods = pods("2", BreakerState::HalfOpen).to_vec();
    case.pods.reverse();
    assert_eq!(case.look(), shown);
    let many = (0..100).map(|n| open(&format!("https://{n:0300}"), "1", BreakerState::Open));
    case.pods.truncate(1);
    if let Some(report) = &mut case.pods[0].report {
        report.open_circuit_breakers.endpoints = many.collect();
    }
    let shown = case.look().open_circuit_breakers;
    // Their names are cut and then alike.
    assert_eq!((shown.len(), shown[0].len()), (1, 256));
    case.pods.clear();
    assert!(case.look().open_circuit_breakers.is_empty());
}

#[test]
fn untracked_observers_are_counted() {
    let no = || {
        ObserverEvaluation::Programmed(Tracked::No {
            reason: "TableNotTracked".to_owned(),
            message: String::new(),
        })
    };
    let says = |a: ObserverEvaluation, b: ObserverEvaluation| {
        BTreeMap::from([
            (ObjectRef::new("web", "a"), a),
            (ObjectRef::new("web", "b"), b),
        ])
    };
    let mut case = Case::but(|case| {
        case.evaluations = says(ObserverEvaluation::Programmed(Tracked::Yes), no());
    });
    assert_eq!(case.look().observers.untracked, 1);
    assert_eq!(case.look().observers.programmed, 2);
    // A new bundle, and pods that have not looked at it yet.
    let unknown = || ObserverEvaluation::Programmed(Tracked::Unknown);
    let waiting = || ObserverEvaluation::Waiting {
        reason: "Pending".to_owned(),
        message: String::new(),
    };
    for (a, b) in [
        (waiting(), waiting()),
        (unknown(), unknown()),
        (no(), unknown()),
    ] {
        case.evaluations = says(a, b);
        assert_eq!(case.look().observers.untracked, 1);
    }
    case.evaluations = says(no(), no());
    assert_eq!(case.look().observers.untracked, 2);
    case.evaluations = says(
        ObserverEvaluation::Programmed(Tracked::Yes),
        ObserverEvaluation::Suspended,
    );
    assert_eq!(case.look().observers.untracked, 0);
}
