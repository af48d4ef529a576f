//! What the operator is told on `/status`: what this process does, what it runs, and what keeps
//! it from its work.

use std::collections::BTreeMap;
use std::sync::Mutex;

use chrono::{DateTime, SecondsFormat, Utc};
use crds::pod_status::{
    ObserverError, OwnedShard, PodProblem, PodReport, Role, StalledShard, TrackingReport,
};

use crate::sync::lock;
use crate::telemetry::metrics::Metrics;

/// A bundle that is loaded.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LoadedBundle {
    /// SHA-256 of its bytes, in hexadecimal.
    pub hash: String,
    /// What in it does not compile.
    pub refused: Vec<ObserverError>,
}

#[derive(Debug)]
struct PodState {
    role: Role,
    /// The newest that can be run.
    loaded: Option<LoadedBundle>,
    /// The one that is being run, which may be an older one while that is finished.
    running: Option<LoadedBundle>,
    /// What is wrong with a newer bundle.
    bundle: Option<PodProblem>,
    /// What keeps the work from being done.
    work: Option<PodProblem>,
    shards: BTreeMap<u16, OwnedShard>,
    stalled_at_work: Vec<StalledShard>,
    stalled_before_work: Vec<StalledShard>,
    members: usize,
    /// Of the observers of the bundle that is being run.
    tracking: Option<TrackingReport>,
}

impl PodState {
    fn stalled(&self) -> Vec<StalledShard> {
        let at_work = self.stalled_at_work.iter();
        at_work.chain(&self.stalled_before_work).cloned().collect()
    }

    fn nothing_stalled(&mut self) {
        self.stalled_at_work.clear();
        self.stalled_before_work.clear();
    }
}

/// Notes of those who load and who run.
#[derive(Debug)]
pub struct StatusReporter {
    pod: String,
    state: Mutex<PodState>,
}

impl StatusReporter {
    /// Nothing is loaded yet.
    #[must_use]
    pub fn new(pod: impl Into<String>) -> Self {
        Self {
            pod: pod.into(),
            state: Mutex::new(PodState {
                role: Role::Starting,
                loaded: None,
                running: None,
                bundle: None,
                work: None,
                shards: BTreeMap::new(),
                stalled_at_work: Vec::new(),
                stalled_before_work: Vec::new(),
                members: 0,
                tracking: None,
            }),
        }
    }

    fn note(&self, change: impl FnOnce(&mut PodState)) {
        change(&mut lock(&self.state));
    }

    /// A bundle is loaded; what was wrong with one before it is of no matter any more.
    pub fn loaded(&self, bundle: LoadedBundle) {
        self.note(|state| {
            state.loaded = Some(bundle);
            state.bundle = None;
        });
    }

    /// The newest bundle cannot be used, or is not there; the one before stays.
    pub fn bundle_trouble(&self, trouble: PodProblem) {
        self.note(|state| state.bundle = Some(trouble));
    }

    /// Work is done by this bundle from now on.
    pub fn runs(&self, bundle: LoadedBundle) {
        self.note(|state| {
            let hash = |bundle: &LoadedBundle| bundle.hash.clone();
            if state.running.as_ref().map(hash) != Some(hash(&bundle)) {
                state.tracking = None;
            }
            state.running = Some(bundle);
        });
    }

    /// What the database does not log that the observers at work watch.
    pub fn tracking(&self, found: TrackingReport) {
        self.note(|state| state.tracking = Some(found));
    }

    /// This process takes part, and has no shard yet. Nothing keeps it from its work.
    pub fn takes_part(&self) {
        self.note(|state| {
            state.role = Role::Standby;
            state.work = None;
            state.shards.clear();
            state.nothing_stalled();
        });
    }

    /// A shard is this process's.
    pub fn claimed(&self, shard: u16, epoch: i64, now: DateTime<Utc>) {
        let owned = OwnedShard {
            shard,
            epoch,
            since: now.to_rfc3339_opts(SecondsFormat::Millis, true),
            lag_seconds: 0,
        };
        self.note(|state| {
            if state.role != Role::Stopping {
                state.role = Role::Active;
            }
            state.shards.insert(shard, owned);
        });
    }

    /// A shard is no longer this process's.
    pub fn let_go(&self, shard: u16) {
        self.note(|state| {
            state.shards.remove(&shard);
            if state.shards.is_empty() && state.role == Role::Active {
                state.role = Role::Standby;
            }
        });
    }

    /// How many shards are this process's.
    #[must_use]
    pub fn owned(&self) -> usize {
        let state = lock(&self.state);
        state.shards.len()
    }

    /// Whether a shard is this process's and is claimed.
    #[must_use]
    pub fn owns(&self, shard: u16) -> bool {
        let state = lock(&self.state);
        state.shards.contains_key(&shard)
    }

    /// How far behind each shard is, in seconds.
    pub fn lags(&self, lags: &BTreeMap<u16, f64>) {
        self.note(|state| {
            for (shard, lag) in lags {
                if let Some(owned) = state.shards.get_mut(shard) {
                    owned.lag_seconds = whole_seconds(*lag);
                }
            }
        });
    }

    /// Of the shards at work, those that do not get on.
    pub fn stalled_at_work(&self, stalled: Vec<StalledShard>) {
        self.note(|state| state.stalled_at_work = stalled);
    }

    /// The shards that should be this process's and cannot be had, and those that it holds by their
    /// Leases and cannot claim in the database.
    pub fn stalled_before_work(&self, stalled: Vec<StalledShard>) {
        self.note(|state| state.stalled_before_work = stalled);
    }

    /// All shards that do not get on.
    #[must_use]
    pub fn stalled(&self) -> Vec<StalledShard> {
        lock(&self.state).stalled()
    }

    /// How many processes take part, as this one sees it.
    pub fn members(&self, members: usize) {
        self.note(|state| state.members = members);
    }

    /// The work cannot be done, and this process takes no part; it will try again.
    pub fn work_trouble(&self, trouble: PodProblem) {
        self.note(|state| {
            state.role = Role::Starting;
            state.work = Some(trouble);
            state.nothing_stalled();
        });
    }

    /// Finishes what is under way.
    pub fn stopping(&self) {
        self.note(|state| state.role = Role::Stopping);
    }

    /// All of it at this moment. `health` is what the tasks at work find wrong.
    #[must_use]
    pub fn report(&self, metrics: &Metrics, health: Option<PodProblem>) -> PodReport {
        let state = lock(&self.state);
        let count = |gauge: &prometheus::IntGauge| u64::try_from(gauge.get()).unwrap_or(0);
        let bundle = state.running.as_ref().or(state.loaded.as_ref());
        let at_work = matches!(state.role, Role::Active | Role::Standby);
        let problem = state.work.clone().or_else(|| state.bundle.clone());
        PodReport {
            pod: self.pod.clone(),
            role: state.role,
            bundle: bundle.map(|bundle| bundle.hash.clone()),
            refused: bundle.map_or_else(Vec::new, |bundle| bundle.refused.clone()),
            problem: problem.or_else(|| health.filter(|_| at_work)),
            shards: state.shards.values().cloned().collect(),
            stalled: state.stalled(),
            tracking: state.tracking.clone(),
            left_alone: metrics.left_alone(),
            members: u32::try_from(state.members).unwrap_or(u32::MAX),
            lag_seconds: whole_seconds(metrics.lag.get()),
            backlog: count(&metrics.backlog),
            pending: count(&metrics.deliveries_pending),
        }
    }
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "seconds, never below zero"
)]
const fn whole_seconds(seconds: f64) -> u64 {
    seconds as u64
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]

    use super::*;

    fn bundle(hash: &str) -> LoadedBundle {
        LoadedBundle {
            hash: hash.to_owned(),
            refused: Vec::new(),
        }
    }

    fn trouble(reason: &str) -> PodProblem {
        PodProblem {
            reason: reason.to_owned(),
            message: String::new(),
        }
    }

    fn seen(
        reporter: &StatusReporter,
        health: Option<PodProblem>,
    ) -> (Role, Option<String>, String) {
        let report = reporter.report(&Metrics::new("default/test").unwrap(), health);
        let problem = report.problem.map(|problem| problem.reason);
        (report.role, report.bundle, problem.unwrap_or_default())
    }

    #[test]
    fn the_bundle_told_is_the_one_at_work() {
        let reporter = StatusReporter::new("shop-1");
        assert_eq!(seen(&reporter, None), (Role::Starting, None, String::new()));
        reporter.loaded(bundle("a"));
        reporter.takes_part();
        assert_eq!(seen(&reporter, None).1.as_deref(), Some("a"));
        reporter.runs(bundle("a"));
        reporter.loaded(bundle("b"));
        assert_eq!(seen(&reporter, None).1.as_deref(), Some("a"));
        reporter.runs(bundle("b"));
        assert_eq!(seen(&reporter, None).1.as_deref(), Some("b"));
    }

    #[test]
    fn what_was_found_of_tables_is_of_the_bundle_at_work() {
        let reporter = StatusReporter::new("shop-1");
        let told = || {
            let report = reporter.report(&Metrics::new("default/test").unwrap(), None);
            report.tracking.is_some()
        };
        reporter.runs(bundle("a"));
        assert!(!told());
        reporter.tracking(TrackingReport::default());
        reporter.runs(bundle("a"));
        assert!(told(), "the same one is begun anew");
        reporter.runs(bundle("b"));
        assert!(!told());
    }

    #[test]
    fn a_process_is_active_while_it_has_a_shard() {
        let reporter = StatusReporter::new("shop-1");
        reporter.takes_part();
        for shard in [1, 2] {
            reporter.claimed(shard, 7, DateTime::UNIX_EPOCH);
        }
        reporter.lags(&BTreeMap::from([(2, 3.9), (5, 1.0)]));
        let report = reporter.report(&Metrics::new("default/test").unwrap(), None);
        assert_eq!(report.role, Role::Active);
        assert_eq!(report.shards[1].since, "1970-01-01T00:00:00.000Z");
        assert_eq!(
            (report.shards[1].shard, report.shards[1].lag_seconds),
            (2, 3)
        );
        reporter.let_go(1);
        assert_eq!(seen(&reporter, None).0, Role::Active);
        reporter.let_go(2);
        assert_eq!(seen(&reporter, None).0, Role::Standby);
        reporter.stopping();
        reporter.let_go(2);
        assert_eq!(seen(&reporter, None).0, Role::Stopping);
    }

    #[test]
    fn what_keeps_work_from_being_done_comes_first() {
        let reporter = StatusReporter::new("shop-1");
        reporter.loaded(bundle("a"));
        assert_eq!(
            seen(&reporter, Some(trouble("NoProgress"))).2,
            "",
            "who takes no part has no work"
        );
        reporter.takes_part();
        assert_eq!(seen(&reporter, Some(trouble("NoProgress"))).2, "NoProgress");
        reporter.bundle_trouble(trouble("BundleInvalid"));
        assert_eq!(seen(&reporter, None).2, "BundleInvalid");
        reporter.work_trouble(trouble("SchemaMissing"));
        assert_eq!(seen(&reporter, None).2, "SchemaMissing");
        assert_eq!(seen(&reporter, None).0, Role::Starting);
        reporter.takes_part();
        assert_eq!(
            seen(&reporter, None),
            (
                Role::Standby,
                Some("a".to_owned()),
                "BundleInvalid".to_owned()
            )
        );
        reporter.loaded(bundle("b"));
        assert_eq!(seen(&reporter, None).2, "");
    }
}
