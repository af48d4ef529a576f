//! The status of a listener.

use std::collections::BTreeMap;
use std::time::Duration;

use crds::duration::Span;
use crds::report::{PodReport, Role};
use crds::resources::{ObserverCounts, ObserverListenerStatus, ShardStatus};
use k8s_openapi::jiff::Timestamp;

use crate::build::selector_text;
use crate::conditions::{Saying, Truth, condition, find, holds};
use crate::key::Key;
use crate::seen::{DeploymentSeen, PodSeen};
use crate::verdict::Verdict;

/// With events waiting and the oldest of them older than this, a listener does not get on.
const STALLED: u64 = 60;

/// How long pods may take to load a new bundle before the listener is no longer ready.
const LOADING: Duration = Duration::from_secs(30);

/// Names of refused observers in a message.
const NAMED: usize = 5;

/// Most shards that a status lists.
const MAX_SHARDS: usize = 256;

/// Why a listener cannot be run as it is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// In a word.
    pub reason: String,
    /// In a sentence, with the remedy.
    pub message: String,
}

/// A pod and what it says.
#[derive(Clone, Debug)]
pub struct Pod {
    /// Its name.
    pub name: String,
    /// What the API server says about it.
    pub seen: PodSeen,
    /// What it says about itself, where it did so lately.
    pub report: Option<PodReport>,
}

/// Everything that a listener's status is made from.
#[derive(Clone, Copy, Debug)]
pub struct Seen<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its generation.
    pub generation: i64,
    /// Number of pods that are asked for.
    pub wanted: i32,
    /// Why it is not run as it is written.
    pub refused: Option<&'a Refused>,
    /// The bundle that the pods should run.
    pub bundle: Option<&'a str>,
    /// Its Deployment.
    pub deployment: Option<&'a DeploymentSeen>,
    /// Its pods.
    pub pods: &'a [Pod],
    /// What it says about its observers.
    pub verdicts: &'a BTreeMap<Key, Verdict>,
}

/// The status of a listener, given the one before.
#[must_use]
pub fn listener(
    seen: Seen<'_>,
    before: &ObserverListenerStatus,
    now: Timestamp,
) -> ObserverListenerStatus {
    let generation = seen.generation;
    let say = |type_: &str, saying| condition(&before.conditions, type_, saying, generation, now);
    let progressing = say("Progressing", seen.progressing());
    // A new bundle that does not arrive is told by how long this has been going on.
    let since = find(std::slice::from_ref(&progressing), "Progressing");
    let late = since.is_some_and(|since| {
        let began = since.last_transition_time.0;
        now.duration_since(began).unsigned_abs() > LOADING
    });
    let was_ready = holds(&before.conditions, "Ready") && !late;
    let active = seen.active();
    ObserverListenerStatus {
        observed_generation: generation,
        replicas: seen.deployment.map_or(0, |seen| seen.replicas),
        ready_replicas: seen.deployment.map_or(0, |seen| seen.ready),
        selector: Some(selector_text(seen.name)),
        observers: seen.counts(&before.observers),
        shards: seen.shards(),
        lag: active.map(|report| lag(report.lag_seconds)),
        backlog: active.map_or(0, |report| {
            i64::try_from(report.backlog).unwrap_or(i64::MAX)
        }),
        bundle: seen
            .bundle
            .map(ToOwned::to_owned)
            .or_else(|| before.bundle.clone()),
        conditions: vec![
            say("Ready", seen.ready(was_ready)),
            progressing,
            say("Degraded", seen.degraded()),
            say("Stalled", seen.stalled()),
        ],
    }
}

/// An age as people read it.
#[must_use]
pub fn lag(seconds: u64) -> String {
    Span::from_secs(seconds).to_string()
}

/// Takes over the figures that change all the time, where a figure was shown before.
pub fn keep_figures(status: &mut ObserverListenerStatus, before: &ObserverListenerStatus) {
    if status.lag.is_some() && before.lag.is_some() {
        status.lag.clone_from(&before.lag);
        status.backlog = before.backlog;
    }
}

/// Whether the pods do what they should and can be asked less often.
#[must_use]
pub fn converged(status: &ObserverListenerStatus) -> bool {
    let settled = |type_: &str| {
        find(&status.conditions, type_).is_some_and(|condition| condition.status == "False")
    };
    settled("Progressing")
        && (holds(&status.conditions, "Ready")
            || find(&status.conditions, "Ready")
                .is_some_and(|condition| condition.reason == "ScaledToZero"))
}

impl<'a> Seen<'a> {
    fn reports(&self) -> impl Iterator<Item = &'a PodReport> {
        self.pods.iter().filter_map(|pod| pod.report.as_ref())
    }

    /// The report of the pod that works. After a change of hands two may think that they do; the
    /// later owner has the higher epoch.
    fn active(&self) -> Option<&'a PodReport> {
        let epoch = |report: &&PodReport| report.shards.iter().map(|shard| shard.epoch).max();
        self.reports()
            .filter(|report| report.role == Role::Active)
            .max_by_key(epoch)
    }

    fn ready(&self, was_ready: bool) -> Saying {
        let no = |reason: &str, message: String| Saying::new(Truth::False, reason, message);
        if let Some(refused) = self.refused {
            return no(&refused.reason, refused.message.clone());
        }
        if self.wanted == 0 {
            return no(
                "ScaledToZero",
                "no pod runs, and changes wait in the log; set spec.replicas to 1 or more".into(),
            );
        }
        let Some(active) = self.active() else {
            return self.nobody_works();
        };
        if let Some(problem) = &active.problem {
            return no(&problem.reason, problem.message.clone());
        }
        let available = self.deployment.map_or(0, |seen| seen.available);
        if available < 1 {
            return no(
                "PodsUnavailable",
                format!("pod {} works and is not available yet", active.pod),
            );
        }
        if active.bundle.as_deref() == self.bundle && self.bundle.is_some() || was_ready {
            return Saying::new(
                Truth::True,
                "Delivering",
                format!("pod {} delivers", active.pod),
            );
        }
        no(
            "BundleNotLoaded",
            format!(
                "pod {} works and has not loaded what was last applied; see its log",
                active.pod
            ),
        )
    }

    /// Why no pod works: what a pod says comes first, then what the cluster says.
    fn nobody_works(&self) -> Saying {
        let no = |reason: &str, message: String| Saying::new(Truth::False, reason, message);
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
                    "{ready} pods are ready and none answers the operator on port {}; let the \
                     operator's namespace reach them",
                    crds::report::STATUS_PORT
                ),
            );
        }
        no("Starting", "no pod has taken up the work yet".into())
    }

    fn progressing(&self) -> Saying {
        let yes = |reason: &str, message: String| Saying::new(Truth::True, reason, message);
        if let Some(refused) = self.refused {
            return Saying::new(
                Truth::False,
                &*refused.reason,
                "what runs is left as it is until the listener can be run as it is written",
            );
        }
        let Some(deployment) = self.deployment else {
            return yes("RollingOut", "the pods are being made".into());
        };
        if !deployment.rolled_out() {
            return match &deployment.stuck {
                Some(why) => Saying::new(Truth::False, "RolloutStuck", why),
                None => yes(
                    "RollingOut",
                    format!(
                        "{} of {} pods are of the newest template, {} are available",
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
                format!("{current} of {all} pods run what was last applied"),
            );
        }
        Saying::new(
            Truth::False,
            "UpToDate",
            "every pod runs what was last applied",
        )
    }

    fn degraded(&self) -> Saying {
        let refused: Vec<&Key> = self
            .verdicts
            .iter()
            .filter(|(_, verdict)| verdict.refused())
            .map(|(observer, _)| observer)
            .collect();
        if !refused.is_empty() {
            let mut names: Vec<String> = refused
                .iter()
                .take(NAMED)
                .map(ToString::to_string)
                .collect();
            if refused.len() > NAMED {
                names.push(format!("{} more", refused.len() - NAMED));
            }
            return Saying::new(
                Truth::True,
                "ObserversRefused",
                format!(
                    "{} of {} observers do not run ({}); their own status says why",
                    refused.len(),
                    self.verdicts.len(),
                    names.join(", ")
                ),
            );
        }
        if let Some(why) = self.deployment.and_then(|seen| seen.stuck.as_ref()) {
            return Saying::new(Truth::True, "RolloutStuck", why);
        }
        let unwell = self
            .reports()
            .filter(|report| report.role != Role::Stopping)
            .find_map(|report| Some((&report.pod, report.problem.as_ref()?)));
        if let Some((pod, problem)) = unwell {
            return Saying::new(
                Truth::True,
                &*problem.reason,
                format!("pod {pod}: {}", problem.message),
            );
        }
        Saying::new(Truth::False, "NothingRefused", "every part runs")
    }

    fn stalled(&self) -> Saying {
        let stalled = self
            .reports()
            .filter_map(|report| report.problem.as_ref())
            .find(|problem| problem.reason == "Stalled");
        if let Some(problem) = stalled {
            return Saying::new(Truth::True, "Stalled", &*problem.message);
        }
        if self.wanted == 0 {
            return Saying::new(Truth::False, "ScaledToZero", "no pod runs");
        }
        match self.active() {
            Some(report) if report.lag_seconds > STALLED && report.backlog > 0 => Saying::new(
                Truth::True,
                "Behind",
                format!(
                    "events wait for more than {STALLED} s; see the receivers' answers in the log \
                     of pod {}",
                    report.pod
                ),
            ),
            Some(_) => Saying::new(Truth::False, "GettingOn", "no event waits for long"),
            None => Saying::new(
                Truth::Unknown,
                "NoActivePod",
                "no pod works that could tell",
            ),
        }
    }

    /// While a bundle is on its way, as many run as did before.
    fn counts(&self, before: &ObserverCounts) -> ObserverCounts {
        let count = |fits: &dyn Fn(&Verdict) -> bool| {
            let count = self
                .verdicts
                .values()
                .filter(|verdict| fits(verdict))
                .count();
            i32::try_from(count).unwrap_or(i32::MAX)
        };
        let waiting = count(&|verdict| matches!(verdict, Verdict::Waiting { .. }));
        let programmed = count(&|verdict| matches!(verdict, Verdict::Programmed));
        let on_its_way = waiting > 0 && self.wanted > 0 && self.active().is_some();
        ObserverCounts {
            selected: count(&|_| true),
            programmed: if on_its_way {
                before.programmed.min(waiting)
            } else {
                programmed
            },
            refused: count(&Verdict::refused),
        }
    }

    fn shards(&self) -> Vec<ShardStatus> {
        let mut owners: BTreeMap<u16, ShardStatus> = BTreeMap::new();
        for report in self.reports() {
            for owned in &report.shards {
                let status = ShardStatus {
                    shard: i32::from(owned.shard),
                    owner: report.pod.clone(),
                    epoch: owned.epoch,
                    since: owned.since.clone(),
                    lag: None,
                };
                let later = owners
                    .get(&owned.shard)
                    .is_some_and(|other| other.epoch >= owned.epoch);
                if !later {
                    owners.insert(owned.shard, status);
                }
            }
        }
        owners.into_values().take(MAX_SHARDS).collect()
    }
}

#[cfg(test)]
#[path = "listener_tests.rs"]
mod tests;
