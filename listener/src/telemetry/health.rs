//! Whether the listener makes progress, and if not, why.

use crate::sync::lock;
use std::sync::Mutex;
use std::time::Duration;

use crds::pod_status::{PodProblem, SHARD_UNOWNED};
use tokio::time::Instant;

/// Without an answer from the database for this long, the listener is not ready.
const DATABASE_AWAY: Duration = Duration::from_secs(5);

/// Reason of whatever keeps the database from being used.
pub(crate) const DATABASE_UNREACHABLE: &str = "DatabaseUnreachable";

#[derive(Debug, Default)]
struct State {
    waits: Waits,
    stopping: bool,
    read_failing: Option<Instant>,
    save_failing: Option<Instant>,
    /// What keeps the database from answering although it is there.
    blocked: Option<String>,
    /// Shards that do not get on.
    stalled: Option<PodProblem>,
    /// Why this process takes no part.
    outside: Option<PodProblem>,
    /// Whether something that was finished could not be saved, and was let go of.
    unsaved: bool,
}

/// What is waited for before anything can be done.
#[derive(Debug, Default)]
enum Waits {
    /// The database has not been asked yet.
    #[default]
    Database,
    /// For what is wrong to be put right.
    Trouble(PodProblem),
    /// Nothing.
    Nothing,
}

/// Notes of the tasks that do the work.
#[derive(Debug, Default)]
pub struct Health(Mutex<State>);

impl Health {
    fn note(&self, change: impl FnOnce(&mut State)) {
        change(&mut lock(&self.0));
    }

    /// Work can be done, and what was found wrong before is of no matter any more.
    pub fn started(&self) {
        self.note(|state| {
            *state = State {
                waits: Waits::Nothing,
                stopping: state.stopping,
                ..State::default()
            };
        });
    }

    /// Nothing can be done before this is put right.
    pub fn waits_for(&self, trouble: PodProblem) {
        self.note(|state| state.waits = Waits::Trouble(trouble));
    }

    /// A stop was asked for.
    pub fn stopping(&self) {
        self.note(|state| state.stopping = true);
    }

    /// A read from the log succeeded or failed.
    pub fn read(&self, succeeded: bool, now: Instant) {
        self.note(|state| failing(&mut state.read_failing, succeeded, now));
    }

    /// A save succeeded or failed.
    pub fn saved(&self, succeeded: bool, now: Instant) {
        self.note(|state| failing(&mut state.save_failing, succeeded, now));
    }

    /// What keeps the database from answering although it is there, if anything.
    pub fn is_blocked(&self, by: Option<String>) {
        self.note(|state| state.blocked = by);
    }

    /// See [`Health::is_blocked`].
    #[must_use]
    pub fn blocked(&self) -> Option<String> {
        let state = lock(&self.0);
        state.blocked.clone()
    }

    /// Shards that do not get on, in words, if there are any.
    pub fn stalled(&self, what: Option<String>) {
        self.note(|state| state.stalled = what.map(|what| trouble("DeliveryStalled", what)));
    }

    /// Why this process takes no part, if that has lasted.
    pub fn outside(&self, why: Option<String>) {
        self.note(|state| state.outside = why.map(|why| trouble(SHARD_UNOWNED, why)));
    }

    /// Something that was finished could not be saved, and is done again.
    pub fn left_unsaved(&self) {
        self.note(|state| state.unsaved = true);
    }

    /// Whether that happened since work was begun last.
    #[must_use]
    pub fn has_left_unsaved(&self) -> bool {
        let state = lock(&self.0);
        state.unsaved
    }

    /// For how long the database has not answered, if it does not.
    #[must_use]
    pub fn database_away(&self, now: Instant) -> Option<Duration> {
        let state = lock(&self.0);
        let since = state.read_failing.into_iter().chain(state.save_failing);
        since
            .min()
            .map(|since| now.saturating_duration_since(since))
    }

    /// Why no work can be expected of it now, if so.
    #[must_use]
    pub fn not_ready(&self, now: Instant) -> Option<PodProblem> {
        let state = lock(&self.0);
        let longer = |since: Option<Instant>, bound: Duration| {
            since
                .map(|since| now.saturating_duration_since(since))
                .filter(|lasts| *lasts >= bound)
                .map(|lasts| lasts.as_secs())
        };
        if state.stopping {
            return Some(trouble("Stopping", "stopping".to_owned()));
        }
        match &state.waits {
            Waits::Database => {
                let message = "waiting for the database".to_owned();
                return Some(trouble(DATABASE_UNREACHABLE, message));
            }
            Waits::Trouble(trouble) => return Some(trouble.clone()),
            Waits::Nothing => {}
        }
        let away = [
            (state.read_failing, "the log could not be read"),
            (state.save_failing, "no checkpoint could be saved"),
        ];
        for (since, what) in away {
            if let Some(lasts) = longer(since, DATABASE_AWAY) {
                let message = match &state.blocked {
                    Some(by) => format!("{what} for {lasts} s: {by}"),
                    None => format!("{what} for {lasts} s"),
                };
                return Some(trouble(DATABASE_UNREACHABLE, message));
            }
        }
        state.outside.clone().or_else(|| state.stalled.clone())
    }
}

fn trouble(reason: &str, message: String) -> PodProblem {
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

    fn said(health: &Health, now: Instant) -> Option<String> {
        health.not_ready(now).map(|trouble| trouble.message)
    }

    #[test]
    fn ready_only_between_start_and_stop() {
        let (health, now) = (Health::default(), Instant::now());
        assert_eq!(
            said(&health, now).as_deref(),
            Some("waiting for the database")
        );
        health.started();
        assert_eq!(health.not_ready(now), None);
        health.stopping();
        assert_eq!(said(&health, now).as_deref(), Some("stopping"));
    }

    #[test]
    fn an_outage_shows_after_a_while_and_heals() {
        let (health, start) = (Health::default(), Instant::now());
        health.started();
        health.read(false, start);
        assert_eq!(health.not_ready(start + Duration::from_secs(1)), None);
        health.read(false, start + Duration::from_secs(4));
        assert_eq!(
            said(&health, start + Duration::from_secs(6)).as_deref(),
            Some("the log could not be read for 6 s")
        );
        health.read(true, start + Duration::from_secs(7));
        assert_eq!(health.not_ready(start + Duration::from_secs(8)), None);
    }

    #[test]
    fn what_blocks_the_database_and_what_is_stalled_shows() {
        let (health, start) = (Health::default(), Instant::now());
        let later = start + Duration::from_secs(9);
        health.started();
        health.stalled(Some("shard 3: it waits".to_owned()));
        assert_eq!(said(&health, later).as_deref(), Some("shard 3: it waits"));
        health.saved(false, start);
        health.is_blocked(Some("process 7 holds a lock".to_owned()));
        assert_eq!(
            said(&health, later).as_deref(),
            Some("no checkpoint could be saved for 9 s: process 7 holds a lock")
        );
        assert_eq!(health.database_away(later), Some(Duration::from_secs(9)));
        health.saved(true, start);
        health.stalled(None);
        assert_eq!(health.not_ready(later), None);
    }

    #[test]
    fn what_was_found_wrong_ends_with_a_new_start() {
        let (health, start) = (Health::default(), Instant::now());
        let later = start + Duration::from_secs(100);
        health.waits_for(trouble("SchemaMissing", "migrate".to_owned()));
        assert_eq!(said(&health, start).as_deref(), Some("migrate"));
        health.started();
        health.saved(false, start);
        assert!(health.not_ready(later).is_some());
        health.started();
        assert_eq!(health.not_ready(later), None);
    }
}
