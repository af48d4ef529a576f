//! Decisions of the finalizer: pure functions.
//!
//! Before a deleted listener may go, its progress and dead letters are removed from the database:
//! otherwise they would hold back the retention of old events for ever. A Job in the listener's
//! namespace does that, once the pods have stopped. The operator itself connects to no database: the
//! URL is a user's and may name anything.
//!
//! A deletion never hangs: the pods have a bounded time to stop, and the Job has few attempts and a
//! deadline. All limits count from what this operator did itself, so an operator that was down for
//! long does not give up before it has tried. An Event reports rows that stay.
//!
//! `kube::runtime::finalizer` is not used. It would add the finalizer to every listener, also to
//! invalid ones and to those that retain their data; it removes it by name alone, where ours is bound
//! to the uid and version; it returns no object, so the cache would lag behind the write; and a
//! cleanup that is not finished would have to be an error.

use std::time::Duration;

use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Pod;

use crate::listener::build::cleanup_job::DEADLINE;

/// Finalizer that keeps a listener until its rows are removed.
pub const FINALIZER: &str = "observers.fraiseql.dev/database-cleanup";

/// Longest wait for the pods to stop.
const POD_STOP_TIMEOUT: Duration = Duration::from_secs(45);

/// Longest wait for the Job: its own deadline, and some time for the Job controller.
const CLEANUP_TIMEOUT: Duration = DEADLINE.saturating_add(Duration::from_mins(1));

/// Attempts to create the Job where the API server rejects it.
const MAX_ATTEMPTS: u32 = 5;

/// Time between two checks of a cleanup.
pub const POLL_INTERVAL: Duration = Duration::from_secs(2);

/// Most bytes of a pod's failure message that are passed on.
const MAX_FAILURE_BYTES: usize = 400;

/// Returns whether to wait for the listener's pods, which could write rows again. `lasts` is the time
/// since the deletion was first seen.
#[must_use]
pub fn must_wait_for_pods(lasts: Duration, pods: bool) -> bool {
    pods && lasts < POD_STOP_TIMEOUT
}

/// Returns whether a Job that has not ended for so long is given up.
#[must_use]
pub fn is_overdue(lasts: Duration) -> bool {
    lasts >= CLEANUP_TIMEOUT
}

/// Returns whether no attempt to create the Job is left after so many that were rejected.
#[must_use]
pub fn attempts_exhausted(tries: u32) -> bool {
    tries >= MAX_ATTEMPTS
}

/// Result of the Job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CleanupStatus {
    /// It has not ended.
    Running,
    /// It removed the rows.
    Succeeded,
    /// It did not, and why.
    Failed(String),
}

/// Returns the result of the Job, given why its pods fail.
#[must_use]
pub fn cleanup_status(job: &Job, why: Option<&str>) -> CleanupStatus {
    let conditions = job.status.as_ref().and_then(|s| s.conditions.as_ref());
    let holds = |type_: &str| {
        let mut conditions = conditions.into_iter().flatten();
        conditions.find(|found| found.type_ == type_ && found.status == "True")
    };
    if holds("Complete").is_some() {
        return CleanupStatus::Succeeded;
    }
    let Some(failed) = holds("Failed") else {
        return CleanupStatus::Running;
    };
    let said = failed.message.as_deref().unwrap_or("the Job failed");
    CleanupStatus::Failed(why.unwrap_or(said).to_owned())
}

/// Returns why the Job's pods fail, from the last words of the newest pod or from its node.
#[must_use]
pub fn failure_message(pods: &[Pod]) -> Option<String> {
    let mut pods: Vec<&Pod> = pods.iter().collect();
    pods.sort_by_key(|pod| pod.metadata.creation_timestamp.clone());
    pods.into_iter()
        .rev()
        .find_map(|pod| {
            let status = pod.status.as_ref()?;
            let state = status
                .container_statuses
                .as_ref()?
                .first()?
                .state
                .as_ref()?;
            if let Some(waiting) = &state.waiting {
                let reason = waiting.reason.as_deref()?;
                let begins = matches!(reason, "ContainerCreating" | "PodInitializing");
                return (!begins).then(|| format!("its pod does not run: {reason}"));
            }
            let ended = state
                .terminated
                .as_ref()
                .filter(|ended| ended.exit_code != 0)?;
            let lines = ended.message.as_deref().unwrap_or_default().lines();
            let last = lines.rev().find(|line| !line.trim().is_empty());
            let last = last.or(ended.reason.as_deref())?.trim();
            Some(last.strip_prefix("error: ").unwrap_or(last).to_owned())
        })
        .map(|mut why| {
            why.truncate(why.floor_char_boundary(MAX_FAILURE_BYTES));
            why
        })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]

    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn cleanup_waits_for_pods_for_a_while() {
        let waits = |seconds, pods| must_wait_for_pods(Duration::from_secs(seconds), pods);
        assert!(waits(0, true) && waits(44, true));
        assert!(!waits(45, true) && !waits(0, false));
    }

    #[test]
    fn cleanup_is_attempted_before_it_is_given_up() {
        assert!(!is_overdue(Duration::ZERO) && !is_overdue(DEADLINE));
        assert!(is_overdue(CLEANUP_TIMEOUT));
        assert!(!attempts_exhausted(1) && attempts_exhausted(MAX_ATTEMPTS));
    }

    fn job(conditions: &Value) -> Job {
        serde_json::from_value(json!({ "status": { "conditions": conditions } })).unwrap()
    }

    #[test]
    fn job_succeeds_or_fails_with_a_reason() {
        let condition =
            |type_| json!([{ "type": type_, "status": "True", "message": "too many tries" }]);
        assert_eq!(
            cleanup_status(&Job::default(), None),
            CleanupStatus::Running
        );
        // What is on its way to its end has not ended.
        let target = job(&condition("FailureTarget"));
        assert_eq!(cleanup_status(&target, None), CleanupStatus::Running);
        assert_eq!(
            cleanup_status(&job(&condition("Complete")), None),
            CleanupStatus::Succeeded
        );
        let failed = job(&condition("Failed"));
        for (why, expected) in [(None, "too many tries"), (Some("refused"), "refused")] {
            assert_eq!(
                cleanup_status(&failed, why),
                CleanupStatus::Failed(expected.to_owned())
            );
        }
    }

    fn pod(second: u32, state: &Value) -> Pod {
        serde_json::from_value(json!({
            "metadata": { "creationTimestamp": format!("2026-01-01T00:00:{second:02}Z") },
            "status": { "containerStatuses": [{
                "name": "drop-listener", "image": "", "imageID": "", "ready": false, "restartCount": 0,
                "state": state,
            }] },
        }))
        .unwrap()
    }

    #[test]
    fn newest_pod_gives_the_failure_message() {
        let ended = |message: &str| json!({ "terminated": { "exitCode": 1, "reason": "Error", "message": message } });
        let old = pod(1, &ended("error: cannot reach Postgres\n"));
        assert_eq!(failure_message(&[]), None);
        assert_eq!(
            failure_message(std::slice::from_ref(&old)).as_deref(),
            Some("cannot reach Postgres")
        );
        let new = pod(2, &ended("{\"level\":\"INFO\"}\nerror: it refuses\n\n"));
        assert_eq!(
            failure_message(&[new, old.clone()]).as_deref(),
            Some("it refuses")
        );
        let killed = json!({ "terminated": { "exitCode": 137, "reason": "OOMKilled" } });
        assert_eq!(
            failure_message(&[pod(3, &killed)]).as_deref(),
            Some("OOMKilled")
        );
        let waiting = |reason: &str| pod(4, &json!({ "waiting": { "reason": reason } }));
        let pulls = failure_message(&[waiting("ImagePullBackOff"), old.clone()]);
        assert_eq!(
            pulls.as_deref(),
            Some("its pod does not run: ImagePullBackOff")
        );
        let begins = failure_message(&[waiting("ContainerCreating"), old]);
        assert_eq!(begins.as_deref(), Some("cannot reach Postgres"));
        let long = failure_message(&[pod(5, &ended(&"ä".repeat(999)))]).unwrap();
        assert!(long.len() <= MAX_FAILURE_BYTES);
    }
}
