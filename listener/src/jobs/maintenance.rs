//! Periodic maintenance by a worker: expired workers, and jobs of actions that were removed.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};

use super::worker::QUEUE_TIMEOUT;
use super::worker_config::WorkerConfig;
use crate::delivery::ActionName;
use crate::observers::Observers;

/// Interval of maintenance.
const INTERVAL: Duration = Duration::from_secs(1);

/// Rounds of maintenance between two checks for orphaned jobs.
const ORPHAN_CHECK_ROUNDS: u32 = 15;

/// Time after which the jobs of a removed action are orphaned. Within this time, an observer that was
/// removed by mistake, or is rejected because of an error in it, can be restored.
const ORPHANED_AFTER: Duration = Duration::from_mins(10);

/// Runs maintenance. Never returns.
pub(crate) async fn run_maintenance(
    config: &WorkerConfig,
    orphans: &watch::Sender<Arc<[ActionName]>>,
) {
    let mut tracker = OrphanTracker::default();
    for round in 0_u32.. {
        sleep(INTERVAL).await;
        match timeout(QUEUE_TIMEOUT, config.backend.queue.run_maintenance()).await {
            Ok(Ok(report)) => config
                .metrics
                .jobs
                .leases_expired
                .inc_by(report.expired_claims),
            Ok(Err(error)) => {
                tracing::debug!(%error, "maintenance of the job queue failed; retrying");
            }
            Err(_) => tracing::debug!("maintenance of the job queue timed out; retrying"),
        }
        if round % ORPHAN_CHECK_ROUNDS == 0 {
            // With a limit of zero lanes, each action that has jobs is returned without its lanes.
            let response = timeout(
                QUEUE_TIMEOUT,
                config.backend.queue.lanes_with_jobs(&[0], 1, 0),
            )
            .await;
            if let Ok(Ok(actions)) = response {
                let names = actions
                    .into_iter()
                    .map(|action| ActionName::new(action.observer, action.action));
                let observers = Arc::clone(&config.observers.borrow());
                let found = tracker.update(names, &observers, Instant::now());
                orphans.send_if_modified(|before| {
                    let changed = **before != *found;
                    *before = found.into();
                    changed
                });
            }
        }
    }
}

/// Actions that have jobs and no observer, and since when.
#[derive(Debug, Default)]
struct OrphanTracker(HashMap<ActionName, Instant>);

impl OrphanTracker {
    /// Updates the actions that have jobs, and returns those that are orphaned.
    fn update(
        &mut self,
        with_jobs: impl Iterator<Item = ActionName>,
        observers: &Observers,
        now: Instant,
    ) -> Vec<ActionName> {
        let missing = with_jobs.filter(|name| observers.find(name).is_none());
        let since = |name: ActionName| {
            let since = self.0.get(&name).copied().unwrap_or(now);
            (name, since)
        };
        self.0 = missing.map(since).collect();
        let is_orphaned = |since: Instant| now.saturating_duration_since(since) >= ORPHANED_AFTER;
        let orphans = self.0.iter().filter(|(_, since)| is_orphaned(**since));
        let mut orphans: Vec<ActionName> = orphans.map(|(name, _)| name.clone()).collect();
        orphans.sort_unstable();
        orphans
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]

    use crds::config::Egress;

    use super::*;
    use crate::admission::action_runtime::ActionRuntime;
    use crate::admission::endpoint_gate::EndpointRegistry;

    #[test]
    fn jobs_of_a_removed_action_are_orphaned_after_a_while() {
        let shared = ActionRuntime::new(&Egress::default(), &EndpointRegistry::default()).unwrap();
        let (none, _) = Observers::compile_what_can_run(&[], &shared);
        let name = ActionName::new("default/gone", "notify");
        let mut tracker = OrphanTracker::default();
        let start = Instant::now();
        let mut orphans = |minutes: u64, there: bool| {
            let names = there.then(|| name.clone()).into_iter();
            let now = start + Duration::from_secs(60 * minutes);
            tracker.update(names, &none, now).len()
        };
        assert_eq!(orphans(0, true), 0);
        assert_eq!(orphans(9, true), 0);
        assert_eq!(orphans(10, true), 1);
        assert_eq!(orphans(11, false), 0);
        assert_eq!(orphans(12, true), 0, "the time starts over");
    }
}
