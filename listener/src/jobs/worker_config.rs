//! Configuration of a job worker, and the claims that it makes.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use ::queue::{ClaimRequest, QueueError};
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use super::backend::QueueBackendHandle;
use super::reports::JobReports;
use crate::cache::follower::Follower;
use crate::delivery::ActionName;
use crate::observers::Observers;
use crate::telemetry::metrics::Metrics;
use crate::trace::spans::Spans;

/// Configuration of a worker.
#[derive(Clone, Debug)]
pub(crate) struct WorkerConfig {
    /// The job queue.
    pub(crate) backend: QueueBackendHandle,
    /// Identity of the listener, for its dead letters.
    pub(crate) listener: Arc<str>,
    /// Human-readable name of this process.
    pub(crate) worker_name: String,
    /// The current observers.
    pub(crate) observers: watch::Receiver<Arc<Observers>>,
    /// Most lanes in flight in this process.
    pub(crate) concurrency: usize,
    /// Most lanes in flight in the fleet.
    pub(crate) max_running_total: Option<u32>,
    /// Time after the last heartbeat at which the claims of this worker expire.
    pub(crate) lease_duration: Duration,
    /// Time for which a stop waits for jobs in flight.
    pub(crate) drain_timeout: Duration,
    /// Notified when this process has added jobs.
    pub(crate) jobs_added: Arc<Notify>,
    /// Metrics.
    pub(crate) metrics: Metrics,
    /// Where spans go.
    pub(crate) spans: Spans,
    /// Is told what becomes of deliveries.
    pub(crate) reports: JobReports,
    /// Knows what has changed before jobs that were claimed are run.
    pub(crate) changes: Arc<Follower>,
}

impl WorkerConfig {
    /// Counts and logs a failed call to the queue.
    pub(crate) fn record_error(&self, error: &QueueError) {
        let errors = &self.metrics.database_errors;
        errors.with_label_values(&["use_queue"]).inc();
        tracing::warn!(%error, "cannot use the job queue; retrying");
    }

    /// Returns a claim of at most `max_lanes` lanes. `orphans` are actions that no observer has any more;
    /// `held` is the number of lanes held here by action. No more lanes of a rate-limited action are
    /// claimed than may be attempted. Also returns when an action that is left out has capacity again.
    pub(crate) fn claim_request(
        &self,
        max_lanes: usize,
        orphans: &[ActionName],
        held: &HashMap<ActionName, usize>,
        now: Instant,
    ) -> (ClaimRequest, Option<Instant>) {
        let observers = Arc::clone(&self.observers.borrow());
        let mut capacity_at: Option<Instant> = None;
        let actions = observers.targets().iter().filter_map(|target| {
            let ActionName { observer, action } = target.name.clone();
            let max_total = target.queue.max_concurrency_total;
            let Some(room) = target.action.capacity(now) else {
                return Some((observer, action, max_total));
            };
            if room.available == 0 {
                capacity_at =
                    Some(capacity_at.map_or(room.next_at, |other| other.min(room.next_at)));
                return None;
            }
            let held = held.get(&target.name).copied().unwrap_or(0);
            let held = u32::try_from(held).unwrap_or(u32::MAX);
            let most = room.available.saturating_add(held);
            let most = max_total.map_or(most, |total| total.min(most));
            Some((observer, action, Some(most)))
        });
        let orphans = orphans.iter().cloned();
        let orphans = orphans.map(|one| (one.observer, one.action, None));
        let request = ClaimRequest {
            max_lanes,
            max_bytes: usize::MAX,
            actions: actions.chain(orphans).collect(),
            max_running_total: self.max_running_total,
        };
        (request, capacity_at)
    }
}
