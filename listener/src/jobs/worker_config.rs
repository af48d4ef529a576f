//! What a worker works with.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use ::queue::{ClaimRequest, QueueError};
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use super::backend::Place;
use crate::delivery::ActionName;
use crate::observers::Observers;
use crate::telemetry::metrics::Metrics;

/// What a worker works with.
#[derive(Clone, Debug)]
pub(crate) struct Setup {
    /// Where the jobs are.
    pub(crate) place: Place,
    /// The listener, for its dead letters.
    pub(crate) listener: Arc<str>,
    /// This process, for people to read.
    pub(crate) name: String,
    /// The observers, and whatever comes in their place.
    pub(crate) observers: watch::Receiver<Arc<Observers>>,
    /// Most lanes under way at once here.
    pub(crate) concurrency: usize,
    /// Most jobs under way at once in the fleet.
    pub(crate) fleet: Option<u32>,
    /// How long after its last sign of life what it holds is anybody's.
    pub(crate) lease: Duration,
    /// How long a stop waits for what is under way.
    pub(crate) drain: Duration,
    /// Told when jobs have been added here.
    pub(crate) added: Arc<Notify>,
    /// Counts.
    pub(crate) metrics: Metrics,
}

impl Setup {
    /// Counts a failure to use the queue, and says so.
    pub(crate) fn failed(&self, error: &QueueError) {
        let errors = &self.metrics.database_errors;
        errors.with_label_values(&["jobs"]).inc();
        tracing::warn!(%error, "cannot use the job queue; trying again");
    }

    /// What may be taken, at most so many lanes; `orphans` are actions that nobody has any more,
    /// and `held` says how many lanes of an action are here. Of an action that is held back no more
    /// is taken than may be attempted; answers also with when there is room again for one of those
    /// that there is none for.
    pub(crate) fn want(
        &self,
        runs: usize,
        orphans: &[ActionName],
        held: &HashMap<ActionName, usize>,
        now: Instant,
    ) -> (ClaimRequest, Option<Instant>) {
        let observers = Arc::clone(&self.observers.borrow());
        let mut opening: Option<Instant> = None;
        let known = observers.targets().iter().filter_map(|known| {
            let (observer, action) = known.name.clone();
            let own = known.queue.max_concurrency_total;
            let Some(room) = known.action.capacity(now) else {
                return Some((observer, action, own));
            };
            if room.available == 0 {
                opening = Some(opening.map_or(room.next_at, |other| other.min(room.next_at)));
                return None;
            }
            let here = held.get(&known.name).copied().unwrap_or(0);
            let most = room
                .available
                .saturating_add(u32::try_from(here).unwrap_or(u32::MAX));
            Some((
                observer,
                action,
                Some(own.map_or(most, |own| own.min(most))),
            ))
        });
        let orphans = orphans.iter().cloned();
        let orphans = orphans.map(|(observer, action)| (observer, action, None));
        let want = ClaimRequest {
            max_lanes: runs,
            max_bytes: usize::MAX,
            actions: known.chain(orphans).collect(),
            max_running_total: self.fleet,
        };
        (want, opening)
    }
}
