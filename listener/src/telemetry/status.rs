//! Status of this process for the operator, served on `/status`.

use std::collections::BTreeMap;
use std::sync::Mutex;

use chrono::{DateTime, SecondsFormat, Utc};
use crds::pod_status::{
    ObserverError, OwnedShard, PodProblem, PodReport, Role, SearchReport, StalledShard,
    TrackingReport,
};

use crate::sync::lock;
use crate::telemetry::metrics::Metrics;

/// Bundle that was loaded.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LoadedBundle {
    /// SHA-256 of its bytes, in hexadecimal.
    pub hash: String,
    /// Observers that do not compile.
    pub refused: Vec<ObserverError>,
}

#[derive(Debug)]
struct PodState {
    role: Role,
    /// Newest bundle that can be run.
    loaded: Option<LoadedBundle>,
    /// Bundle that is running, which may be an older one while it drains.
    running: Option<LoadedBundle>,
    /// Problem with a newer bundle.
    bundle: Option<PodProblem>,
    /// Problem that keeps the session from running.
    session: Option<PodProblem>,
    shards: BTreeMap<u16, OwnedShard>,
    stalled_owned: Vec<StalledShard>,
    stalled_unowned: Vec<StalledShard>,
    members: usize,
    /// Tracking of the tables of the running bundle.
    tracking: Option<TrackingReport>,
    /// How far the history is, where one is kept.
    search: Option<SearchReport>,
    /// What is wrong with the source that this process reads.
    source: Option<PodProblem>,
}

impl PodState {
    fn stalled(&self) -> Vec<StalledShard> {
        let owned = self.stalled_owned.iter();
        owned.chain(&self.stalled_unowned).cloned().collect()
    }

    fn clear_stalled(&mut self) {
        self.stalled_owned.clear();
        self.stalled_unowned.clear();
    }
}

/// Status of this process, updated by its tasks.
#[derive(Debug)]
pub struct StatusReporter {
    pod: String,
    state: Mutex<PodState>,
}

impl StatusReporter {
    /// Creates the status of a process that has just started.
    #[must_use]
    pub fn new(pod: impl Into<String>) -> Self {
        Self {
            pod: pod.into(),
            state: Mutex::new(PodState {
                role: Role::Starting,
                loaded: None,
                running: None,
                bundle: None,
                session: None,
                shards: BTreeMap::new(),
                stalled_owned: Vec::new(),
                stalled_unowned: Vec::new(),
                members: 0,
                tracking: None,
                search: None,
                source: None,
            }),
        }
    }

    fn update(&self, change: impl FnOnce(&mut PodState)) {
        change(&mut lock(&self.state));
    }

    /// Records a loaded bundle; clears the problem of an earlier one.
    pub fn bundle_loaded(&self, bundle: LoadedBundle) {
        self.update(|state| {
            state.loaded = Some(bundle);
            state.bundle = None;
        });
    }

    /// Records that the newest bundle is missing or cannot be used; the one before stays.
    pub fn bundle_failed(&self, problem: PodProblem) {
        self.update(|state| state.bundle = Some(problem));
    }

    /// Records the bundle that runs from now on.
    pub fn bundle_applied(&self, bundle: LoadedBundle) {
        self.update(|state| {
            let hash = |bundle: &LoadedBundle| bundle.hash.clone();
            if state.running.as_ref().map(hash) != Some(hash(&bundle)) {
                state.tracking = None;
            }
            state.running = Some(bundle);
        });
    }

    /// Sets which tables of the running observers are not tracked.
    pub fn set_tracking(&self, found: TrackingReport) {
        self.update(|state| state.tracking = Some(found));
    }

    /// Sets how far the history of this process's shards is; nothing where none is kept.
    pub fn set_search(&self, search: Option<SearchReport>) {
        self.update(|state| state.search = search);
    }

    /// Sets what is wrong with the source that this process reads, or tries to; nothing where another one does.
    pub fn set_source(&self, problem: Option<PodProblem>) {
        self.update(|state| state.source = problem);
    }

    /// Records that this process has joined the fleet and owns no shard yet; clears its problem.
    pub fn joined(&self) {
        self.update(|state| {
            state.role = Role::Standby;
            state.session = None;
            state.shards.clear();
            state.clear_stalled();
        });
    }

    /// Records that this process owns a shard.
    pub fn shard_claimed(&self, shard: u16, epoch: i64, now: DateTime<Utc>) {
        let owned = OwnedShard {
            shard,
            epoch,
            since: now.to_rfc3339_opts(SecondsFormat::Millis, true),
            lag_seconds: 0,
        };
        self.update(|state| {
            if state.role != Role::Stopping {
                state.role = Role::Active;
            }
            state.shards.insert(shard, owned);
        });
    }

    /// Records that this process no longer owns a shard.
    pub fn shard_released(&self, shard: u16) {
        self.update(|state| {
            state.shards.remove(&shard);
            if state.shards.is_empty() && state.role == Role::Active {
                state.role = Role::Standby;
            }
        });
    }

    /// Returns the number of shards that this process owns.
    #[must_use]
    pub fn owned_shards(&self) -> usize {
        let state = lock(&self.state);
        state.shards.len()
    }

    /// Whether this process owns a shard.
    #[must_use]
    pub fn owns(&self, shard: u16) -> bool {
        let state = lock(&self.state);
        state.shards.contains_key(&shard)
    }

    /// Sets the lag of each shard in seconds.
    pub fn set_lags(&self, lags: &BTreeMap<u16, f64>) {
        self.update(|state| {
            for (shard, lag) in lags {
                if let Some(owned) = state.shards.get_mut(shard) {
                    owned.lag_seconds = whole_seconds(*lag);
                }
            }
        });
    }

    /// Sets the stalled shards among those that this process owns.
    pub fn set_stalled_owned(&self, stalled: Vec<StalledShard>) {
        self.update(|state| {
            log_stalled(&state.stalled_owned, &stalled);
            state.stalled_owned = stalled;
        });
    }

    /// Sets the shards that are assigned to this process and that it cannot acquire, or that it holds by
    /// Lease and cannot claim in the database.
    pub fn set_stalled_unowned(&self, stalled: Vec<StalledShard>) {
        self.update(|state| {
            log_stalled(&state.stalled_unowned, &stalled);
            state.stalled_unowned = stalled;
        });
    }

    /// Returns all stalled shards.
    #[must_use]
    pub fn stalled(&self) -> Vec<StalledShard> {
        lock(&self.state).stalled()
    }

    /// Sets the number of members of the fleet.
    pub fn set_members(&self, members: usize) {
        self.update(|state| state.members = members);
    }

    /// Records that the session failed and will be retried; this process is not a member meanwhile.
    pub fn session_failed(&self, problem: PodProblem) {
        self.update(|state| {
            state.role = Role::Starting;
            state.session = Some(problem);
            state.clear_stalled();
        });
    }

    /// Records that this process drains.
    pub fn stopping(&self) {
        self.update(|state| state.role = Role::Stopping);
    }

    /// Returns the current report. `health` is the problem that readiness reports, if any.
    #[must_use]
    pub fn report(&self, metrics: &Metrics, health: Option<PodProblem>) -> PodReport {
        let state = lock(&self.state);
        let count = |gauge: &prometheus::IntGauge| u64::try_from(gauge.get()).unwrap_or(0);
        let bundle = state.running.as_ref().or(state.loaded.as_ref());
        let is_member = matches!(state.role, Role::Active | Role::Standby);
        let problem = state.session.clone().or_else(|| state.bundle.clone());
        PodReport {
            pod: self.pod.clone(),
            role: state.role,
            bundle: bundle.map(|bundle| bundle.hash.clone()),
            refused: bundle.map_or_else(Vec::new, |bundle| bundle.refused.clone()),
            problem: problem.or_else(|| health.filter(|_| is_member)),
            shards: state.shards.values().cloned().collect(),
            stalled: state.stalled(),
            tracking: state.tracking.clone(),
            open_circuit_breakers: metrics.open_circuits(),
            members: u32::try_from(state.members).unwrap_or(u32::MAX),
            lag_seconds: whole_seconds(metrics.lag.get()),
            backlog: count(&metrics.backlog),
            pending: count(&metrics.deliveries_pending),
            search: state.search.clone(),
            source: state.source.clone(),
        }
    }
}

/// Logs which shards are stalled that were not, or for another reason, and which are not any more.
fn log_stalled(before: &[StalledShard], now: &[StalledShard]) {
    for one in now {
        let known = |old: &StalledShard| old.shard == one.shard && old.reason == one.reason;
        if !before.iter().any(known) {
            let (shard, reason) = (one.shard, &one.reason);
            tracing::warn!(shard, reason, "shard stalled: {}", one.message);
        }
    }
    for one in before {
        if !now.iter().any(|new| new.shard == one.shard) {
            tracing::info!(shard = one.shard, "shard no longer stalled");
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

    fn problem(reason: &str) -> PodProblem {
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
    fn report_names_the_running_bundle() {
        let reporter = StatusReporter::new("shop-1");
        assert_eq!(seen(&reporter, None), (Role::Starting, None, String::new()));
        reporter.bundle_loaded(bundle("a"));
        reporter.joined();
        assert_eq!(seen(&reporter, None).1.as_deref(), Some("a"));
        reporter.bundle_applied(bundle("a"));
        reporter.bundle_loaded(bundle("b"));
        assert_eq!(seen(&reporter, None).1.as_deref(), Some("a"));
        reporter.bundle_applied(bundle("b"));
        assert_eq!(seen(&reporter, None).1.as_deref(), Some("b"));
    }

    #[test]
    fn tracking_belongs_to_the_running_bundle() {
        let reporter = StatusReporter::new("shop-1");
        let has_tracking = || {
            let report = reporter.report(&Metrics::new("default/test").unwrap(), None);
            report.tracking.is_some()
        };
        reporter.bundle_applied(bundle("a"));
        assert!(!has_tracking());
        reporter.set_tracking(TrackingReport::default());
        reporter.bundle_applied(bundle("a"));
        assert!(has_tracking(), "the same bundle restarts");
        reporter.bundle_applied(bundle("b"));
        assert!(!has_tracking());
    }

    #[test]
    fn process_is_active_while_it_owns_a_shard() {
        let reporter = StatusReporter::new("shop-1");
        reporter.joined();
        for shard in [1, 2] {
            reporter.shard_claimed(shard, 7, DateTime::UNIX_EPOCH);
        }
        reporter.set_lags(&BTreeMap::from([(2, 3.9), (5, 1.0)]));
        let report = reporter.report(&Metrics::new("default/test").unwrap(), None);
        assert_eq!(report.role, Role::Active);
        assert_eq!(report.shards[1].since, "1970-01-01T00:00:00.000Z");
        assert_eq!(
            (report.shards[1].shard, report.shards[1].lag_seconds),
            (2, 3)
        );
        reporter.shard_released(1);
        assert_eq!(seen(&reporter, None).0, Role::Active);
        reporter.shard_released(2);
        assert_eq!(seen(&reporter, None).0, Role::Standby);
        reporter.stopping();
        reporter.shard_released(2);
        assert_eq!(seen(&reporter, None).0, Role::Stopping);
    }

    #[test]
    fn session_problem_comes_first() {
        let reporter = StatusReporter::new("shop-1");
        reporter.bundle_loaded(bundle("a"));
        assert_eq!(
            seen(&reporter, Some(problem("NoProgress"))).2,
            "",
            "a process outside the fleet has no work"
        );
        reporter.joined();
        assert_eq!(seen(&reporter, Some(problem("NoProgress"))).2, "NoProgress");
        reporter.bundle_failed(problem("BundleInvalid"));
        assert_eq!(seen(&reporter, None).2, "BundleInvalid");
        reporter.session_failed(problem("SchemaMissing"));
        assert_eq!(seen(&reporter, None).2, "SchemaMissing");
        assert_eq!(seen(&reporter, None).0, Role::Starting);
        reporter.joined();
        assert_eq!(
            seen(&reporter, None),
            (
                Role::Standby,
                Some("a".to_owned()),
                "BundleInvalid".to_owned()
            )
        );
        reporter.bundle_loaded(bundle("b"));
        assert_eq!(seen(&reporter, None).2, "");
    }
}
