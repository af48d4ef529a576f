//! What a worker works with.

use std::sync::Arc;
use std::time::Duration;

use ::queue::{QueueError, Want};
use tokio::sync::{Notify, watch};

use super::place::Place;
use crate::checkpoint::Action;
use crate::dispatch::observers::Observers;
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
    pub(super) fn failed(&self, error: &QueueError) {
        let errors = &self.metrics.database_errors;
        errors.with_label_values(&["jobs"]).inc();
        tracing::warn!(%error, "cannot use the job queue; trying again");
    }

    /// What may be taken, at most so many lanes; `orphans` are actions that nobody has any more.
    pub(super) fn want(&self, runs: usize, orphans: &[Action]) -> Want {
        let observers = Arc::clone(&self.observers.borrow());
        let known = observers.targets().iter().map(|known| {
            let (observer, action) = known.name.clone();
            (observer, action, known.queue.max_running)
        });
        let orphans = orphans.iter().cloned();
        let orphans = orphans.map(|(observer, action)| (observer, action, None));
        Want {
            runs,
            actions: known.chain(orphans).collect(),
            fleet: self.fleet,
        }
    }
}
