//! The `Ready` condition of a listener.

use std::collections::BTreeSet;
use std::fmt::Write;

use crds::pod_status::{PodReport, Role, SHARD_UNOWNED, STATUS_PORT};
use k8s_openapi::jiff::Timestamp;

use super::StatusInput;
use super::shards::{Owners, describe, non_reporting};
use crate::conditions::{ConditionStatus, ConditionValue};

/// Further input of a condition.
#[derive(Clone, Copy)]
pub(super) struct ReadinessInput<'a> {
    pub(super) owners: &'a Owners<'a>,
    pub(super) ready_before: bool,
    /// Whether the rollout of a change takes too long.
    pub(super) late: bool,
    pub(super) now: Timestamp,
}

impl<'a> StatusInput<'a> {
    pub(super) fn ready(&self, input: ReadinessInput<'_>) -> ConditionValue {
        let no = |reason: &str, message: String| {
            ConditionValue::new(ConditionStatus::False, reason, message)
        };
        if let Some(rejection) = self.rejection {
            return no(&rejection.reason, rejection.message.clone());
        }
        if self.wanted == 0 {
            return no(
                "ScaledToZero",
                "no pod runs, and changes wait in the log; set spec.replicas to 1 or more".into(),
            );
        }
        let working: Vec<&PodReport> = self.working().collect();
        if working.is_empty() && !(input.ready_before && self.standby_available()) {
            return self.no_active_pod();
        }
        let trouble = |report: &&'a PodReport| Some((&report.pod, report.problem.as_ref()?));
        if let Some((pod, problem)) = working.iter().find_map(trouble) {
            return no(&problem.reason, format!("pod {pod}: {}", problem.message));
        }
        let available = self.deployment.map_or(0, |seen| seen.available);
        if available < 1 {
            return no("PodsUnavailable", "no active pod is available yet".into());
        }
        let old = |report: &&&PodReport| report.bundle.as_deref() != self.bundle;
        let old: Vec<_> = working.iter().filter(old).collect();
        if let Some(one) = old.first().filter(|_| !input.ready_before || input.late) {
            return no(
                "BundleNotLoaded",
                format!(
                    "{} of {} active pods have not loaded the newest configuration; see the log \
                     of pod {}",
                    old.len(),
                    working.len(),
                    one.pod
                ),
            );
        }
        self.delivering(input)
    }

    /// Reports whether all shards are delivered.
    fn delivering(&self, input: ReadinessInput<'_>) -> ConditionValue {
        let mut stalls = self.stalls(input.owners, input.now);
        stalls.retain(|stall| stall.reason == SHARD_UNOWNED);
        if !stalls.is_empty() {
            return ConditionValue::new(ConditionStatus::False, SHARD_UNOWNED, describe(&stalls));
        }
        let unowned = self.unowned(input.owners).len();
        if unowned > 0 && !input.ready_before {
            let all = self.shards;
            let (reason, message) = match non_reporting(self.pods).next() {
                Some(pod) => (
                    "PodsNotReporting",
                    format!(
                        "{unowned} of {all} shards may be owned by pods that do not answer \
                         the operator on port {STATUS_PORT}, such as {}",
                        pod.name
                    ),
                ),
                None => (
                    "Starting",
                    format!("{unowned} of {all} shards have no owner yet"),
                ),
            };
            return ConditionValue::new(ConditionStatus::False, reason, message);
        }
        let pods: BTreeSet<&str> = input.owners.values().map(|(pod, _)| &*pod.pod).collect();
        let shards = match input.owners.len() {
            1 => "1 shard".to_owned(),
            many => format!("{many} shards"),
        };
        let mut message = match (pods.len(), pods.first()) {
            (1, Some(pod)) => format!("pod {pod} delivers {shards}"),
            (many, _) => format!("{many} pods deliver {shards}"),
        };
        if unowned > 0 {
            let _ = write!(message, ", and {unowned} change owners");
        }
        ConditionValue::new(ConditionStatus::True, "Delivering", message)
    }

    /// Returns whether a healthy standby pod will take over the shards.
    fn standby_available(&self) -> bool {
        let mut standby = self.reports().filter(|report| report.role == Role::Standby);
        standby.any(|report| report.problem.is_none())
    }

    /// Reports why no pod is active: a pod's own report comes first, then the cluster's.
    fn no_active_pod(&self) -> ConditionValue {
        let no = |reason: &str, message: String| {
            ConditionValue::new(ConditionStatus::False, reason, message)
        };
        if let Some(problem) = self.reports().find_map(|report| report.problem.as_ref()) {
            return no(&problem.reason, problem.message.clone());
        }
        if let Some((pod, why)) = self
            .pods
            .iter()
            .find_map(|pod| Some((&pod.name, pod.seen.waiting.as_ref()?)))
        {
            return no(
                "PodsNotRunning",
                format!("pod {pod} does not run: {why}; see kubectl describe pod {pod}"),
            );
        }
        if let Some(why) = self.deployment.and_then(|seen| seen.stuck.as_ref()) {
            return no("PodsNotRunning", format!("the pods do not run: {why}"));
        }
        let ready = self.pods.iter().filter(|pod| pod.seen.ready).count();
        if ready > 0 && self.reports().next().is_none() {
            return no(
                "PodsNotReporting",
                format!(
                    "{ready} pods are ready and none answers the operator on port {STATUS_PORT}; \
                     let the operator's namespace reach them"
                ),
            );
        }
        no("Starting", "no pod is active yet".into())
    }
}
