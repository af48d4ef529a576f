//! What the operator is told on `/status`: what this process does, what it runs, and what keeps
//! it from its work.

use std::sync::{Mutex, PoisonError};

use chrono::{DateTime, SecondsFormat, Utc};
use crds::report::{OwnedShard, PodReport, Refusal, Role, Trouble};

use crate::checkpoint::Claim;
use crate::telemetry::metrics::Metrics;

/// A bundle that is loaded.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LoadedBundle {
    /// SHA-256 of its bytes, in hexadecimal.
    pub hash: String,
    /// What in it does not compile.
    pub refused: Vec<Refusal>,
}

#[derive(Debug)]
struct State {
    role: Role,
    /// The newest that can be run.
    loaded: Option<LoadedBundle>,
    /// The one that is being run, which may be an older one while that is finished.
    running: Option<LoadedBundle>,
    /// What is wrong with a newer bundle.
    bundle: Option<Trouble>,
    /// What keeps the work from being done.
    work: Option<Trouble>,
    shards: Vec<OwnedShard>,
}

/// Notes of those who load and who run.
#[derive(Debug)]
pub struct Reporter {
    pod: String,
    state: Mutex<State>,
}

impl Reporter {
    /// Nothing is loaded yet.
    #[must_use]
    pub fn new(pod: impl Into<String>) -> Self {
        Self {
            pod: pod.into(),
            state: Mutex::new(State {
                role: Role::Starting,
                loaded: None,
                running: None,
                bundle: None,
                work: None,
                shards: Vec::new(),
            }),
        }
    }

    fn note(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// A bundle is loaded; what was wrong with one before it is of no matter any more.
    pub fn loaded(&self, bundle: LoadedBundle) {
        self.note(|state| {
            state.loaded = Some(bundle);
            state.bundle = None;
        });
    }

    /// The newest bundle cannot be used, or is not there; the one before stays.
    pub fn bundle_trouble(&self, trouble: Trouble) {
        self.note(|state| state.bundle = Some(trouble));
    }

    /// Work goes on by this bundle from now on.
    pub fn runs(&self, bundle: LoadedBundle) {
        self.note(|state| {
            state.role = Role::Active;
            state.running = Some(bundle);
        });
    }

    /// The shards are claimed, so that nothing keeps the work from being done.
    pub fn claimed(&self, claim: &Claim, now: DateTime<Utc>) {
        let since = now.to_rfc3339_opts(SecondsFormat::Millis, true);
        let owned = claim.shards.iter().map(|shard| OwnedShard {
            shard: shard.shard.unsigned_abs(),
            epoch: shard.epoch,
            since: since.clone(),
            lag_seconds: 0,
        });
        self.note(|state| {
            state.role = Role::Active;
            state.shards = owned.collect();
            state.work = None;
        });
    }

    /// The shards are no longer held.
    pub fn let_go(&self) {
        self.note(|state| state.shards.clear());
    }

    /// The work cannot be done; it will be tried again.
    pub fn work_trouble(&self, trouble: Trouble) {
        self.note(|state| state.work = Some(trouble));
    }

    /// Ready to take over.
    pub fn stands_by(&self) {
        self.note(|state| {
            state.role = Role::Standby;
            state.running = None;
            state.work = None;
            state.shards.clear();
        });
    }

    /// Finishes what is under way.
    pub fn stopping(&self) {
        self.note(|state| state.role = Role::Stopping);
    }

    /// All of it at this moment. `health` is what the tasks at work find wrong.
    #[must_use]
    pub fn report(&self, metrics: &Metrics, health: Option<Trouble>) -> PodReport {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let count = |gauge: &prometheus::IntGauge| u64::try_from(gauge.get()).unwrap_or(0);
        let bundle = state.running.as_ref().or(state.loaded.as_ref());
        let at_work = state.role == Role::Active;
        let problem = state.work.clone().or_else(|| state.bundle.clone());
        PodReport {
            pod: self.pod.clone(),
            role: state.role,
            bundle: bundle.map(|bundle| bundle.hash.clone()),
            refused: bundle.map_or_else(Vec::new, |bundle| bundle.refused.clone()),
            problem: problem.or_else(|| health.filter(|_| at_work)),
            shards: state.shards.clone(),
            stalled: Vec::new(),
            members: 0,
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "seconds, never below zero"
            )]
            lag_seconds: metrics.lag.get() as u64,
            backlog: count(&metrics.backlog),
            pending: count(&metrics.pending),
        }
    }
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

    fn trouble(reason: &str) -> Trouble {
        Trouble {
            reason: reason.to_owned(),
            message: String::new(),
        }
    }

    fn seen(reporter: &Reporter, health: Option<Trouble>) -> (Role, Option<String>, String) {
        let report = reporter.report(&Metrics::new("default/test").unwrap(), health);
        let problem = report.problem.map(|problem| problem.reason);
        (report.role, report.bundle, problem.unwrap_or_default())
    }

    #[test]
    fn the_bundle_told_is_the_one_at_work() {
        let reporter = Reporter::new("shop-1");
        assert_eq!(seen(&reporter, None), (Role::Starting, None, String::new()));
        reporter.loaded(bundle("a"));
        reporter.stands_by();
        assert_eq!(seen(&reporter, None).1.as_deref(), Some("a"));
        reporter.runs(bundle("a"));
        reporter.loaded(bundle("b"));
        assert_eq!(seen(&reporter, None).1.as_deref(), Some("a"));
        reporter.runs(bundle("b"));
        assert_eq!(seen(&reporter, None).1.as_deref(), Some("b"));
    }

    #[test]
    fn what_keeps_work_from_being_done_comes_first() {
        let reporter = Reporter::new("shop-1");
        reporter.loaded(bundle("a"));
        reporter.stands_by();
        assert_eq!(
            seen(&reporter, Some(trouble("NoProgress"))).2,
            "",
            "a standby has no work"
        );
        reporter.runs(bundle("a"));
        assert_eq!(seen(&reporter, Some(trouble("NoProgress"))).2, "NoProgress");
        reporter.bundle_trouble(trouble("BundleInvalid"));
        assert_eq!(seen(&reporter, None).2, "BundleInvalid");
        reporter.work_trouble(trouble("SchemaMissing"));
        assert_eq!(seen(&reporter, None).2, "SchemaMissing");
        reporter.stands_by();
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
