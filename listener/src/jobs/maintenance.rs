//! What a worker sees to that nobody tells of: workers that are gone, and jobs of actions that are.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};

use super::worker::ANSWER;
use super::worker_config::Setup;
use crate::delivery::ActionName;
use crate::observers::Observers;

/// Between two looks after the queue.
const EVERY: Duration = Duration::from_secs(1);

/// Between two looks for jobs of actions that there are no more, in looks after the queue.
const ORPHANS_EVERY: u32 = 15;

/// How long the jobs of an action wait that no observer has any more. An observer that was taken
/// out by mistake, or is refused for a mistake in it, can be brought back within this time.
const ORPHANED_AFTER: Duration = Duration::from_mins(10);

/// Sees to it all. Never ends.
pub(crate) async fn upkeep(setup: &Setup, orphans: &watch::Sender<Arc<[ActionName]>>) {
    let mut missing = Missing::default();
    for look in 0_u32.. {
        sleep(EVERY).await;
        match timeout(ANSWER, setup.place.queue.run_maintenance()).await {
            Ok(Ok(report)) => setup.metrics.jobs.lost.inc_by(report.expired_claims),
            Ok(Err(error)) => tracing::debug!(%error, "cannot see to the job queue; trying again"),
            Err(_) => tracing::debug!("the job queue takes long to be seen to; trying again"),
        }
        if look % ORPHANS_EVERY == 0 {
            // Of no action any lane is wanted, so each that has jobs is named alone.
            let asked = timeout(ANSWER, setup.place.queue.lanes_with_jobs(&[0], 1, 0)).await;
            if let Ok(Ok(actions)) = asked {
                let names = actions
                    .into_iter()
                    .map(|action| (action.observer, action.action));
                let observers = Arc::clone(&setup.observers.borrow());
                let found = missing.note(names, &observers, Instant::now());
                orphans.send_if_modified(|before| {
                    let changed = **before != *found;
                    *before = found.into();
                    changed
                });
            }
        }
    }
}

/// Actions with jobs that no observer has, and since when.
#[derive(Debug, Default)]
struct Missing(HashMap<ActionName, Instant>);

impl Missing {
    /// Takes note of the actions that have jobs; gives those that have been missing for long.
    fn note(
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
        let long = |since: Instant| now.saturating_duration_since(since) >= ORPHANED_AFTER;
        let long = self.0.iter().filter(|(_, since)| long(**since));
        let mut long: Vec<ActionName> = long.map(|(name, _)| name.clone()).collect();
        long.sort_unstable();
        long
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
    fn jobs_wait_for_an_action_that_may_come_back() {
        let shared = ActionRuntime::new(&Egress::default(), &EndpointRegistry::default()).unwrap();
        let (none, _) = Observers::compile_what_can_run(&[], &shared);
        let name: ActionName = ("default/gone".into(), "notify".into());
        let mut missing = Missing::default();
        let start = Instant::now();
        let mut long_gone = |minutes: u64, there: bool| {
            let names = there.then(|| name.clone()).into_iter();
            let now = start + Duration::from_secs(60 * minutes);
            missing.note(names, &none, now).len()
        };
        assert_eq!(long_gone(0, true), 0);
        assert_eq!(long_gone(9, true), 0);
        assert_eq!(long_gone(10, true), 1);
        assert_eq!(long_gone(11, false), 0);
        assert_eq!(long_gone(12, true), 0, "it counts from anew");
    }
}
