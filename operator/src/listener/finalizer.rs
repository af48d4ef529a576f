//! What happens before a deleted listener may go: its progress and dead letters are removed from
//! the database, because a listener that is gone would hold back the removal of old events for ever.
//!
//! A Job in the listener's namespace does that, once the pods have stopped. The operator connects to
//! no database: its URL is a user's, and may name anything.
//!
//! A deletion never hangs: the pods have a while to stop, and the Job has few tries and a bounded
//! time. All of that counts from what this operator has done itself, so one that was away for long
//! does not give up before it has tried. Rows that stay are told of by an Event.

use std::time::Duration;

use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Pod;

use crate::listener::build::cleanup_job::DEADLINE;

/// Keeps a listener until its rows are gone.
pub const FINALIZER: &str = "observers.fraiseql.dev/rows";

/// How long the pods may take to stop.
const PODS_PATIENCE: Duration = Duration::from_secs(45);

/// How long the Job may be without an end: its own deadline, and a while for who keeps it.
const JOB_PATIENCE: Duration = DEADLINE.saturating_add(Duration::from_mins(1));

/// Tries to make the Job where the API server refuses it.
const TRIES: u32 = 5;

/// Between two looks.
pub const PAUSE: Duration = Duration::from_secs(2);

/// Most bytes of what a pod said that are passed on.
const MAX_WHY: usize = 400;

/// Whether to wait for the pods of a listener, which may still be at work and would write rows anew.
/// `lasts` says for how long it has been known to be deleted.
#[must_use]
pub fn waits_for_pods(lasts: Duration, pods: bool) -> bool {
    pods && lasts < PODS_PATIENCE
}

/// Whether a Job that has neither ended nor failed for so long is given up.
#[must_use]
pub fn is_late(lasts: Duration) -> bool {
    lasts >= JOB_PATIENCE
}

/// Whether there is another try to make the Job after so many that were refused.
#[must_use]
pub fn is_last_try(tries: u32) -> bool {
    tries >= TRIES
}

/// What came of the Job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Removal {
    /// Nothing yet.
    UnderWay,
    /// The rows are gone.
    Done,
    /// They are not, and why.
    Failed(String),
}

/// What came of the Job, given why its pods do not get on.
#[must_use]
pub fn removal(job: &Job, why: Option<&str>) -> Removal {
    let conditions = job.status.as_ref().and_then(|s| s.conditions.as_ref());
    let holds = |type_: &str| {
        let mut conditions = conditions.into_iter().flatten();
        conditions.find(|found| found.type_ == type_ && found.status == "True")
    };
    if holds("Complete").is_some() {
        return Removal::Done;
    }
    let Some(failed) = holds("Failed") else {
        return Removal::UnderWay;
    };
    let said = failed.message.as_deref().unwrap_or("the Job failed");
    Removal::Failed(why.unwrap_or(said).to_owned())
}

/// Why the pods of the Job do not get on, in the words of the last of them or of its node.
#[must_use]
pub fn why(pods: &[Pod]) -> Option<String> {
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
            why.truncate(why.floor_char_boundary(MAX_WHY));
            why
        })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]

    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn pods_stop_first_for_a_while() {
        let waits = |seconds, pods| waits_for_pods(Duration::from_secs(seconds), pods);
        assert!(waits(0, true) && waits(44, true));
        assert!(!waits(45, true) && !waits(0, false));
    }

    #[test]
    fn nothing_is_given_up_before_it_has_been_tried() {
        assert!(!is_late(Duration::ZERO) && !is_late(DEADLINE));
        assert!(is_late(JOB_PATIENCE));
        assert!(!is_last_try(1) && is_last_try(TRIES));
    }

    fn job(conditions: &Value) -> Job {
        serde_json::from_value(json!({ "status": { "conditions": conditions } })).unwrap()
    }

    #[test]
    fn a_job_ends_well_or_with_a_reason() {
        let condition =
            |type_| json!([{ "type": type_, "status": "True", "message": "too many tries" }]);
        assert_eq!(removal(&Job::default(), None), Removal::UnderWay);
        // What is on its way to its end has not ended.
        let target = job(&condition("FailureTarget"));
        assert_eq!(removal(&target, None), Removal::UnderWay);
        assert_eq!(removal(&job(&condition("Complete")), None), Removal::Done);
        let failed = job(&condition("Failed"));
        for (why, expected) in [(None, "too many tries"), (Some("refused"), "refused")] {
            assert_eq!(removal(&failed, why), Removal::Failed(expected.to_owned()));
        }
    }

    fn pod(second: u32, state: &Value) -> Pod {
        serde_json::from_value(json!({
            "metadata": { "creationTimestamp": format!("2026-01-01T00:00:{second:02}Z") },
            "status": { "containerStatuses": [{
                "name": "forget", "image": "", "imageID": "", "ready": false, "restartCount": 0,
                "state": state,
            }] },
        }))
        .unwrap()
    }

    #[test]
    fn the_last_pod_says_why_in_its_last_words() {
        let ended = |message: &str| json!({ "terminated": { "exitCode": 1, "reason": "Error", "message": message } });
        let old = pod(1, &ended("error: cannot reach Postgres\n"));
        assert_eq!(why(&[]), None);
        assert_eq!(
            why(std::slice::from_ref(&old)).as_deref(),
            Some("cannot reach Postgres")
        );
        let new = pod(2, &ended("{\"level\":\"INFO\"}\nerror: it refuses\n\n"));
        assert_eq!(why(&[new, old.clone()]).as_deref(), Some("it refuses"));
        let killed = json!({ "terminated": { "exitCode": 137, "reason": "OOMKilled" } });
        assert_eq!(why(&[pod(3, &killed)]).as_deref(), Some("OOMKilled"));
        let waiting = |reason: &str| pod(4, &json!({ "waiting": { "reason": reason } }));
        let pulls = why(&[waiting("ImagePullBackOff"), old.clone()]);
        assert_eq!(
            pulls.as_deref(),
            Some("its pod does not run: ImagePullBackOff")
        );
        let begins = why(&[waiting("ContainerCreating"), old]);
        assert_eq!(begins.as_deref(), Some("cannot reach Postgres"));
        let long = why(&[pod(5, &ended(&"ä".repeat(999)))]).unwrap();
        assert!(long.len() <= MAX_WHY);
    }
}
