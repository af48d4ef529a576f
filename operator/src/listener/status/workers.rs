//! A listener's workers: pods that run jobs only.

use crds::duration::HumanDuration;
use crds::v1alpha1::WorkerCounts;
use k8s_openapi::jiff::Timestamp;

use super::StatusInput;
use crate::cache::projection::DeploymentInfo;
use crate::conditions::{ConditionStatus, ConditionValue};

/// Input of the status about workers.
#[derive(Clone, Copy, Debug, Default)]
pub struct Workers<'a> {
    /// Desired number of workers.
    pub wanted: i32,
    /// Their Deployment.
    pub deployment: Option<&'a DeploymentInfo>,
    /// Since when the operator itself has seen fewer ready workers than desired.
    pub short: Option<Timestamp>,
}

impl Workers<'_> {
    /// Returns whether fewer are ready than desired.
    #[must_use]
    pub fn is_short(&self) -> bool {
        self.counts()
            .is_some_and(|counts| counts.ready_replicas < self.wanted)
    }

    /// Returns their numbers; nothing where there are none and none are desired.
    pub(super) fn counts(&self) -> Option<WorkerCounts> {
        let some = self.wanted > 0 || self.deployment.is_some_and(|seen| seen.replicas > 0);
        some.then(|| WorkerCounts {
            replicas: self.deployment.map_or(0, |seen| seen.replicas),
            ready_replicas: self.deployment.map_or(0, |seen| seen.ready),
        })
    }
}

impl StatusInput<'_> {
    /// Reports missing workers, once they have been missing for a while and the listener itself is not
    /// rejected.
    pub(super) fn workers_degraded(&self, now: Timestamp) -> Option<ConditionValue> {
        let workers = self.workers;
        let since = workers.short.filter(|_| self.rejection.is_none())?;
        if let Some(why) = workers.deployment.and_then(|seen| seen.stuck.as_ref()) {
            let message = format!("the worker pods do not run: {why}");
            return Some(ConditionValue::new(
                ConditionStatus::True,
                "WorkersUnavailable",
                message,
            ));
        }
        if now.duration_since(since).unsigned_abs() <= self.stalled_after {
            return None;
        }
        let ready = workers.deployment.map_or(0, |seen| seen.ready);
        let few = match ready {
            0 => "none".to_owned(),
            some => format!("only {some}"),
        };
        let verb = if ready > 1 { "are" } else { "is" };
        let message = format!(
            "{few} of {} worker pods {verb} ready, for more than {}; see kubectl describe of the \
             pods, and their logs",
            workers.wanted,
            HumanDuration::from(self.stalled_after)
        );
        Some(ConditionValue::new(
            ConditionStatus::True,
            "WorkersUnavailable",
            message,
        ))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]

    use super::*;

    fn deployment(replicas: i32, ready: i32) -> DeploymentInfo {
        DeploymentInfo {
            replicas,
            ready,
            ..DeploymentInfo::default()
        }
    }

    #[test]
    fn workers_count_while_desired_or_present() {
        let counts = |wanted: i32, deployment: Option<&DeploymentInfo>| {
            let workers = Workers {
                wanted,
                deployment,
                short: None,
            };
            let counts = workers.counts();
            let shown = counts.map(|counts| (counts.replicas, counts.ready_replicas));
            (shown, workers.is_short())
        };
        assert_eq!(counts(0, None), (None, false));
        assert_eq!(counts(0, Some(&deployment(0, 0))), (None, false));
        assert_eq!(counts(0, Some(&deployment(2, 1))), (Some((2, 1)), false));
        assert_eq!(counts(2, None), (Some((0, 0)), true));
        assert_eq!(counts(2, Some(&deployment(2, 1))), (Some((2, 1)), true));
        assert_eq!(counts(2, Some(&deployment(3, 2))), (Some((3, 2)), false));
    }
}
