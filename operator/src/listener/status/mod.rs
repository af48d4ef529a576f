//! The status of a listener: pure functions from what was seen.

mod circuit_breakers;
mod history;
mod kstatus;
mod ready;
mod shards;
mod workers;

use std::collections::BTreeMap;
use std::time::Duration;

use crds::duration::HumanDuration;
use crds::pod_status::{PodReport, Role};
use crds::v1alpha1::{AutoscalingStatus, ObserverCounts, ObserverListenerStatus, consent};
use k8s_openapi::jiff::Timestamp;

use crate::cache::projection::{DeploymentInfo, PodInfo};
use crate::conditions::{ConditionStatus, ConditionValue, condition, find, is_true};
use crate::listener::build::selector_text;
use crate::object_ref::ObjectRef;
use crate::observer::evaluation::{ObserverEvaluation, Tracked};
use crate::observer::secrets_inline::{SECRETS_INLINE, in_plain_sight};
use ready::ReadinessInput;
pub use shards::UnownedShards;
use shards::{describe, lag, owners, shard_statuses};
pub use workers::Workers;

/// How long pods may take to load a new bundle before the listener is no longer ready.
const LOADING: Duration = Duration::from_secs(30);

/// Most rejected observers that a message names.
const NAMED: usize = 5;

/// Why a listener is not run as it is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejection {
    /// The reason.
    pub reason: String,
    /// The message, with the remedy.
    pub message: String,
}

/// A pod with its report.
#[derive(Clone, Debug)]
pub struct PodView {
    /// Its name.
    pub name: String,
    /// The pod as it is cached.
    pub seen: PodInfo,
    /// Its last valid report.
    pub report: Option<PodReport>,
}

/// Input of a listener's status.
#[derive(Clone, Copy, Debug)]
pub struct StatusInput<'a> {
    /// Its namespace.
    pub namespace: &'a str,
    /// Its name.
    pub name: &'a str,
    /// Its generation.
    pub generation: i64,
    /// Desired number of pods.
    pub wanted: i32,
    /// What was decided about that, if the operator does.
    pub autoscaling: Option<&'a AutoscalingStatus>,
    /// Number of shards.
    pub shards: u16,
    /// How long a shard may be unowned or stalled before that is reported.
    pub stalled_after: Duration,
    /// Unowned shards.
    pub unowned_since: &'a UnownedShards,
    /// Whether it has a history.
    pub search: bool,
    /// Its fields that hold secrets in plain sight.
    pub inline: &'a [String],
    /// Why it is not run as it is written.
    pub rejection: Option<&'a Rejection>,
    /// The bundle that the pods should run.
    pub bundle: Option<&'a str>,
    /// Its Deployment.
    pub deployment: Option<&'a DeploymentInfo>,
    /// Its workers.
    pub workers: Workers<'a>,
    /// Its pods without workers.
    pub pods: &'a [PodView],
    /// Evaluations of its observers.
    pub evaluations: &'a BTreeMap<ObjectRef, ObserverEvaluation>,
}

/// Computes the status of a listener, given the one before.
#[must_use]
pub fn compute_status(
    seen: StatusInput<'_>,
    before: &ObserverListenerStatus,
    now: Timestamp,
) -> ObserverListenerStatus {
    let generation = seen.generation;
    let say = |type_: &str, value| condition(&before.conditions, type_, value, generation, now);
    let progressing = say("Progressing", seen.progressing());
    let kstatus = seen.kstatus(&progressing);
    // A new bundle that does not arrive is told by how long this has been going on.
    let since = find(std::slice::from_ref(&progressing), "Progressing");
    let late = since.is_some_and(|since| {
        let began = since.last_transition_time.0;
        now.duration_since(began).unsigned_abs() > LOADING
    });
    let ready_before = is_true(&before.conditions, "Ready");
    let owners = owners(seen.pods);
    let input = ReadinessInput {
        owners: &owners,
        ready_before,
        late,
        now,
    };
    let figures = || owners.values().map(|(report, _)| *report);
    let oldest = figures().map(|report| report.lag_seconds).max();
    let backlog = figures().map(|report| report.backlog).max();
    ObserverListenerStatus {
        observed_generation: generation,
        replicas: seen.deployment.map_or(0, |seen| seen.replicas),
        ready_replicas: seen.deployment.map_or(0, |seen| seen.ready),
        autoscaling: seen.autoscaling.cloned(),
        workers: seen.workers.counts(),
        selector: Some(selector_text(seen.name)),
        observers: seen.counts(&before.observers),
        shards: shard_statuses(&owners, &before.shards),
        lag: oldest.map(|seconds| lag(seconds, before.lag.as_deref())),
        backlog: i64::try_from(backlog.unwrap_or(0)).unwrap_or(i64::MAX),
        open_circuit_breakers: seen.open_circuit_breakers(),
        config_hash: seen
            .bundle
            .map(ToOwned::to_owned)
            .or_else(|| before.config_hash.clone()),
        conditions: [
            say("Ready", seen.ready(input)),
            progressing,
            say("Degraded", seen.degraded(now)),
            say("DeliveryStalled", seen.stalled(input)),
        ]
        .into_iter()
        .chain(
            seen.history_lagging()
                .map(|value| say("HistoryLagging", value)),
        )
        .chain(kstatus.map(|(type_, value)| say(type_, value)))
        .collect(),
    }
}

/// Carries over the numbers that change all the time, where one was shown before.
pub fn carry_over_numbers(status: &mut ObserverListenerStatus, before: &ObserverListenerStatus) {
    let endpoints = &mut status.open_circuit_breakers;
    endpoints.clone_from(&before.open_circuit_breakers);
    if status.lag.is_some() && before.lag.is_some() {
        status.lag.clone_from(&before.lag);
        status.backlog = before.backlog;
    }
    for shard in &mut status.shards {
        let same = before.shards.iter().find(|old| {
            (old.shard, old.epoch, &old.owner) == (shard.shard, shard.epoch, &shard.owner)
        });
        if let Some(old) = same.filter(|old| old.lag.is_some()) {
            shard.lag.clone_from(&old.lag);
        }
    }
    // Words of the pods, which may hold figures too.
    for condition in &mut status.conditions {
        let same = find(&before.conditions, &condition.type_).filter(|old| {
            ["DeliveryStalled", "HistoryLagging"].contains(&&*condition.type_)
                && (&old.status, &old.reason) == (&condition.status, &condition.reason)
        });
        if let Some(old) = same {
            condition.message.clone_from(&old.message);
        }
    }
}

/// Returns whether the pods do what they should and can be polled less often.
#[must_use]
pub fn is_settled(status: &ObserverListenerStatus) -> bool {
    let settled = |type_: &str| {
        find(&status.conditions, type_).is_some_and(|condition| condition.status == "False")
    };
    settled("Progressing")
        && !is_true(&status.conditions, "DeliveryStalled")
        && (is_true(&status.conditions, "Ready")
            || find(&status.conditions, "Ready")
                .is_some_and(|condition| condition.reason == "ScaledToZero"))
}

impl<'a> StatusInput<'a> {
    pub(super) fn reports(&self) -> impl Iterator<Item = &'a PodReport> + use<'a> {
        self.pods.iter().filter_map(|pod| pod.report.as_ref())
    }

    /// Returns the reports of active pods.
    pub(super) fn working(&self) -> impl Iterator<Item = &'a PodReport> + use<'a> {
        self.reports().filter(|report| report.role == Role::Active)
    }

    fn progressing(&self) -> ConditionValue {
        let yes = |reason: &str, message: String| {
            ConditionValue::new(ConditionStatus::True, reason, message)
        };
        if let Some(rejection) = self.rejection {
            return ConditionValue::new(
                ConditionStatus::False,
                &*rejection.reason,
                "the rollout waits until the spec can be run",
            );
        }
        let Some(deployment) = self.deployment else {
            return yes("RollingOut", "pods are being created".into());
        };
        if !deployment.rolled_out() {
            return match &deployment.stuck {
                Some(why) => ConditionValue::new(ConditionStatus::False, "RolloutStuck", why),
                None => yes(
                    "RollingOut",
                    format!(
                        "{} of {} pods have the newest template, {} are available",
                        deployment.updated, deployment.wanted, deployment.available
                    ),
                ),
            };
        }
        let alive = || self.pods.iter().filter(|pod| !pod.seen.terminating);
        let current = alive().filter(|pod| {
            pod.report.as_ref().is_some_and(|report| {
                report.bundle.is_some() && report.bundle.as_deref() == self.bundle
            })
        });
        let (current, all) = (current.count(), alive().count());
        if current < all {
            return yes(
                "LoadingBundle",
                format!("{current} of {all} pods have loaded the newest configuration"),
            );
        }
        ConditionValue::new(
            ConditionStatus::False,
            "UpToDate",
            "every pod runs the newest configuration",
        )
    }

    fn degraded(&self, now: Timestamp) -> ConditionValue {
        let rejected: Vec<&ObjectRef> = self
            .evaluations
            .iter()
            .filter(|(_, evaluation)| evaluation.is_rejected())
            .map(|(observer, _)| observer)
            .collect();
        if !rejected.is_empty() {
            let mut names: Vec<String> = rejected
                .iter()
                .take(NAMED)
                .map(ToString::to_string)
                .collect();
            if rejected.len() > NAMED {
                names.push(format!("{} more", rejected.len() - NAMED));
            }
            return ConditionValue::new(
                ConditionStatus::True,
                "InvalidObservers",
                format!(
                    "{} of {} observers do not run ({}); their own status says why",
                    rejected.len(),
                    self.selected(),
                    names.join(", ")
                ),
            );
        }
        if let Some(why) = self.deployment.and_then(|seen| seen.stuck.as_ref()) {
            return ConditionValue::new(ConditionStatus::True, "RolloutStuck", why);
        }
        let unwell = self
            .reports()
            .filter(|report| report.role != Role::Stopping)
            .find_map(|report| Some((&report.pod, report.problem.as_ref()?)));
        if let Some((pod, problem)) = unwell {
            return ConditionValue::new(
                ConditionStatus::True,
                &*problem.reason,
                format!("pod {pod}: {}", problem.message),
            );
        }
        if let Some((pod, problem)) = self
            .reports()
            .filter(|report| report.role != Role::Stopping)
            .find_map(|report| Some((&report.pod, report.source.as_ref()?)))
        {
            return ConditionValue::new(
                ConditionStatus::True,
                &*problem.reason,
                format!("pod {pod}: {}", problem.message),
            );
        }
        self.workers_degraded(now)
            .unwrap_or_else(|| self.not_degraded())
    }

    /// Reports that every part runs. Observers of namespaces that do not allow the listener are no part
    /// of it. They are not named: not everybody who sees the listener may see them.
    fn not_degraded(&self) -> ConditionValue {
        let is_whole = self.evaluations.values().all(ObserverEvaluation::selected);
        if is_whole && !self.inline.is_empty() {
            let message = format!("every part runs, but {}", in_plain_sight(self.inline));
            return ConditionValue::new(ConditionStatus::False, SECRETS_INLINE, message);
        }
        if is_whole {
            return ConditionValue::new(ConditionStatus::False, "AsExpected", "every part runs");
        }
        let (label, value) = consent(self.namespace);
        let message = format!(
            "every part runs; observers of other namespaces are left out, because these do not allow listeners \
             of namespace {}. Who administers the cluster allows them with `kubectl label namespace NAME \
             {label}={value}`",
            self.namespace
        );
        ConditionValue::new(ConditionStatus::False, "NamespaceNotAllowed", message)
    }

    /// Returns the number of observers that it selects.
    fn selected(&self) -> usize {
        let selected = |evaluation: &&ObserverEvaluation| evaluation.selected();
        self.evaluations.values().filter(selected).count()
    }

    fn stalled(&self, input: ReadinessInput<'_>) -> ConditionValue {
        if self.wanted == 0 {
            return ConditionValue::new(ConditionStatus::False, "ScaledToZero", "no pod runs");
        }
        let stalls = self.stalls(input.owners, input.now);
        if let Some(worst) = stalls.first() {
            return ConditionValue::new(ConditionStatus::True, &*worst.reason, describe(&stalls));
        }
        let stalled = self
            .reports()
            .filter_map(|report| Some((&report.pod, report.problem.as_ref()?)))
            .find(|(_, problem)| problem.reason == "DeliveryStalled");
        if let Some((pod, problem)) = stalled {
            let message = format!("pod {pod}: {}", problem.message);
            return ConditionValue::new(ConditionStatus::True, "DeliveryStalled", message);
        }
        if self.working().next().is_none() {
            return ConditionValue::new(
                ConditionStatus::Unknown,
                "NoActivePod",
                "no pod is active, so nothing is known",
            );
        }
        let long = self.stalled_after.as_secs();
        let behind =
            |(report, _): &(&PodReport, _)| report.lag_seconds > long && report.backlog > 0;
        if input.owners.values().any(behind) {
            let long = HumanDuration::from(self.stalled_after);
            return ConditionValue::new(
                ConditionStatus::False,
                "Lagging",
                format!("every shard makes progress, but events wait for more than {long}"),
            );
        }
        ConditionValue::new(
            ConditionStatus::False,
            "MakingProgress",
            "no event has waited for long",
        )
    }

    /// Counts observers. While a new bundle is rolled out, as many run as did before.
    fn counts(&self, before: &ObserverCounts) -> ObserverCounts {
        let count = |fits: &dyn Fn(&ObserverEvaluation) -> bool| {
            let count = self
                .evaluations
                .values()
                .filter(|evaluation| fits(evaluation))
                .count();
            i32::try_from(count).unwrap_or(i32::MAX)
        };
        let waiting = count(&|evaluation| matches!(evaluation, ObserverEvaluation::Waiting { .. }));
        let programmed =
            count(&|evaluation| matches!(evaluation, ObserverEvaluation::Programmed(_)));
        let open = count(&|evaluation| {
            matches!(evaluation, ObserverEvaluation::Programmed(Tracked::Unknown))
        });
        let untracked = count(&|evaluation| {
            matches!(
                evaluation,
                ObserverEvaluation::Programmed(Tracked::No { .. })
            )
        });
        let on_its_way = waiting > 0 && self.wanted > 0 && self.working().next().is_some();
        ObserverCounts {
            selected: count(&ObserverEvaluation::selected),
            programmed: if on_its_way {
                before.programmed.min(waiting)
            } else {
                programmed
            },
            rejected: count(&ObserverEvaluation::is_rejected),
            untracked: if on_its_way || open > 0 {
                before
                    .untracked
                    .clamp(untracked, untracked + waiting + open)
            } else {
                untracked
            },
        }
    }
}

#[cfg(test)]
mod tests;
