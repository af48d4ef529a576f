//! Readiness: whether the listener makes progress, and if not, why.

use crate::sync::lock;
use std::sync::Mutex;
use std::time::Duration;

use crds::pod_status::{PodProblem, SHARD_UNOWNED};
use tokio::time::Instant;

/// Time of a database outage after which the listener is not ready.
const DATABASE_GRACE: Duration = Duration::from_secs(5);

/// Reason for a database that cannot be used.
pub(crate) const DATABASE_UNREACHABLE: &str = "DatabaseUnreachable";

#[derive(Debug, Default)]
struct HealthState {
    startup: Startup,
    stopping: bool,
    read_failing: Option<Instant>,
    save_failing: Option<Instant>,
    /// Why a reachable database does not respond.
    blocked: Option<String>,
    /// Stalled shards.
    stalled: Option<PodProblem>,
    /// Why this process is not a member of the fleet.
    not_a_member: Option<PodProblem>,
    /// Whether finished work could not be committed and was abandoned.
    unsaved: bool,
}

/// Progress of the start.
#[derive(Debug, Default)]
enum Startup {
    /// The database has not responded yet.
    #[default]
    WaitingForDatabase,
    /// A problem must be fixed first.
    Blocked(PodProblem),
    /// The start has succeeded.
    Started,
}

/// Readiness of this process, updated by its tasks.
#[derive(Debug, Default)]
pub struct Health(Mutex<HealthState>);

impl Health {
    fn update(&self, change: impl FnOnce(&mut HealthState)) {
        change(&mut lock(&self.0));
    }

    /// Records that work has started; clears earlier problems.
    pub fn started(&self) {
        self.update(|state| {
            *state = HealthState {
                startup: Startup::Started,
                stopping: state.stopping,
                ..HealthState::default()
            };
        });
    }

    /// Records a problem that must be fixed before work can start.
    pub fn cannot_start(&self, problem: PodProblem) {
        self.update(|state| state.startup = Startup::Blocked(problem));
    }

    /// Records that a stop was requested.
    pub fn stopping(&self) {
        self.update(|state| state.stopping = true);
    }

    /// Records whether a read of the change log succeeded.
    pub fn read(&self, succeeded: bool, now: Instant) {
        self.update(|state| failing(&mut state.read_failing, succeeded, now));
    }

    /// Records whether a checkpoint commit succeeded.
    pub fn saved(&self, succeeded: bool, now: Instant) {
        self.update(|state| failing(&mut state.save_failing, succeeded, now));
    }

    /// Sets why a reachable database does not respond, if so.
    pub fn is_blocked(&self, by: Option<String>) {
        self.update(|state| state.blocked = by);
    }

    /// Returns why a reachable database does not respond, if so.
    #[must_use]
    pub fn blocked(&self) -> Option<String> {
        let state = lock(&self.0);
        state.blocked.clone()
    }

    /// Sets the description of stalled shards, if there are any.
    pub fn stalled(&self, what: Option<String>) {
        self.update(|state| state.stalled = what.map(|what| problem("DeliveryStalled", what)));
    }

    /// Sets why this process is not a member of the fleet, if that has lasted.
    pub fn not_a_member(&self, why: Option<String>) {
        self.update(|state| state.not_a_member = why.map(|why| problem(SHARD_UNOWNED, why)));
    }

    /// Records that finished work could not be committed and will be repeated.
    pub fn left_unsaved(&self) {
        self.update(|state| state.unsaved = true);
    }

    /// Whether finished work could not be committed since work last started.
    #[must_use]
    pub fn has_left_unsaved(&self) -> bool {
        let state = lock(&self.0);
        state.unsaved
    }

    /// Returns the duration of the current database outage, if any.
    #[must_use]
    pub fn database_outage(&self, now: Instant) -> Option<Duration> {
        let state = lock(&self.0);
        let since = state.read_failing.into_iter().chain(state.save_failing);
        since
            .min()
            .map(|since| now.saturating_duration_since(since))
    }

    /// Returns why the process is not ready, if so.
    #[must_use]
    pub fn not_ready(&self, now: Instant) -> Option<PodProblem> {
        let state = lock(&self.0);
        let longer = |since: Option<Instant>, bound: Duration| {
            since
                .map(|since| now.saturating_duration_since(since))
                .filter(|outage| *outage >= bound)
                .map(|outage| outage.as_secs())
        };
        if state.stopping {
            return Some(problem("Stopping", "stopping".to_owned()));
        }
        match &state.startup {
            Startup::WaitingForDatabase => {
                let message = "waiting for the database".to_owned();
                return Some(problem(DATABASE_UNREACHABLE, message));
            }
            Startup::Blocked(problem) => return Some(problem.clone()),
            Startup::Started => {}
        }
        let failures = [
            (state.read_failing, "the change log could not be read"),
            (state.save_failing, "no checkpoint could be committed"),
        ];
        for (since, what) in failures {
            if let Some(outage) = longer(since, DATABASE_GRACE) {
                let message = match &state.blocked {
                    Some(by) => format!("{what} for {outage} s: {by}"),
                    None => format!("{what} for {outage} s"),
                };
                return Some(problem(DATABASE_UNREACHABLE, message));
            }
        }
        state.not_a_member.clone().or_else(|| state.stalled.clone())
    }
}

fn problem(reason: &str, message: String) -> PodProblem {
    PodProblem {
        reason: reason.to_owned(),
        message,
    }
}

fn failing(since: &mut Option<Instant>, succeeded: bool, now: Instant) {
    if succeeded {
        *since = None;
    } else {
        since.get_or_insert(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(health: &Health, now: Instant) -> Option<String> {
        health.not_ready(now).map(|problem| problem.message)
    }

    #[test]
    fn ready_only_between_start_and_stop() {
        let (health, now) = (Health::default(), Instant::now());
        assert_eq!(
            message(&health, now).as_deref(),
            Some("waiting for the database")
        );
        health.started();
        assert_eq!(health.not_ready(now), None);
        health.stopping();
        assert_eq!(message(&health, now).as_deref(), Some("stopping"));
    }

    #[test]
    fn outage_makes_unready_after_a_while() {
        let (health, start) = (Health::default(), Instant::now());
        health.started();
        health.read(false, start);
        assert_eq!(health.not_ready(start + Duration::from_secs(1)), None);
        health.read(false, start + Duration::from_secs(4));
        assert_eq!(
            message(&health, start + Duration::from_secs(6)).as_deref(),
            Some("the change log could not be read for 6 s")
        );
        health.read(true, start + Duration::from_secs(7));
        assert_eq!(health.not_ready(start + Duration::from_secs(8)), None);
    }

    #[test]
    fn blocked_database_and_stalled_shards_make_unready() {
        let (health, start) = (Health::default(), Instant::now());
        let later = start + Duration::from_secs(9);
        health.started();
        health.stalled(Some("shard 3: stalled".to_owned()));
        assert_eq!(message(&health, later).as_deref(), Some("shard 3: stalled"));
        health.saved(false, start);
        health.is_blocked(Some("process 7 holds a lock".to_owned()));
        assert_eq!(
            message(&health, later).as_deref(),
            Some("no checkpoint could be committed for 9 s: process 7 holds a lock")
        );
        assert_eq!(health.database_outage(later), Some(Duration::from_secs(9)));
        health.saved(true, start);
        health.stalled(None);
        assert_eq!(health.not_ready(later), None);
    }

    #[test]
    fn start_clears_earlier_problems() {
        let (health, start) = (Health::default(), Instant::now());
        let later = start + Duration::from_secs(100);
        health.cannot_start(problem("SchemaMissing", "migrate".to_owned()));
        assert_eq!(message(&health, start).as_deref(), Some("migrate"));
        health.started();
        health.saved(false, start);
        assert!(health.not_ready(later).is_some());
        health.started();
        assert_eq!(health.not_ready(later), None);
    }
}
