//! One lane's jobs, one after the other.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ::queue::{ClaimToken, ClaimedJob, FinishedClaim, Job, JobOutcome, LaneBatch, failpoint};
use chrono::Utc;
use crds::config::{OnFailure, Retry};
use crds::duration::HumanDuration;
use serde_json::value::RawValue;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::payload::{self, Carried};
use crate::delivery::ActionName;
use crate::delivery::attempt::{self, Attempt};
use crate::delivery::failure::{Failure, FailureKind};
use crate::delivery::outcome::Outcome;
use crate::delivery::retry_policy;
use crate::observers::attempt::try_once;
use crate::observers::attempt_log;
use crate::observers::{Compiled, Observers};
use crate::sync::lock;
use crate::telemetry::metrics::Metrics;

/// What those who work on lanes share.
#[derive(Debug)]
pub(crate) struct Crew {
    pub(crate) observers: watch::Receiver<Arc<Observers>>,
    /// Actions that nobody has had for long, whose jobs are to be given up.
    pub(crate) orphans: watch::Receiver<Arc<[ActionName]>>,
    pub(crate) metrics: Metrics,
    /// Cancelled when everything is to be cut off.
    pub(crate) right: CancellationToken,
    /// Cancelled when nothing more is to be begun.
    pub(crate) stopping: CancellationToken,
    /// Ends single attempts.
    pub(super) cancels: Mutex<HashMap<ClaimToken, CancellationToken>>,
    pub(super) tell: mpsc::Sender<FinishedClaim>,
}

/// Works on the jobs of a lane until one is to be attempted again, or all have ended.
pub(super) async fn work_on(run: LaneBatch, crew: Arc<Crew>) {
    let mut goes_on = true;
    for claimed in run.jobs {
        let goes = goes_on && !crew.stopping.is_cancelled() && !crew.right.is_cancelled();
        let outcome = if goes {
            let outcome = crew.attempt(&claimed).await;
            failpoint!("job-attempted");
            outcome
        } else {
            JobOutcome::Released
        };
        goes_on = goes
            && matches!(
                outcome,
                JobOutcome::Completed | JobOutcome::Discarded { .. }
            );
        let ended = FinishedClaim {
            job: Arc::new(claimed.job),
            claim: claimed.claim,
            outcome,
            enqueued_at: claimed.enqueued_at,
        };
        if crew.tell.send(ended).await.is_err() {
            return;
        }
    }
}

impl Crew {
    async fn attempt(&self, claimed: &ClaimedJob) -> JobOutcome {
        let lane = &claimed.job.lane;
        let name = (Arc::clone(&lane.observer), Arc::clone(&lane.action));
        let mut history: Vec<Attempt> =
            serde_json::from_str(claimed.history.get()).unwrap_or_default();
        let known = self.observers.borrow().compiled(&name);
        let give_up = |mut history: Vec<Attempt>, failure: &Failure, attempts, took| {
            let last = Attempt::new(Utc::now(), failure, took);
            let event = (&*claimed.job.event_id, &*claimed.job.entity);
            let then = known
                .as_ref()
                .map_or(OnFailure::DeadLetter, |known| known.on_failure);
            self.metrics.given_up(event, &name, attempts, &last, then);
            attempt::push_attempt(&mut history, last);
            JobOutcome::Discarded {
                attempts,
                history: written(&history),
            }
        };
        let Some(compiled) = &known else {
            // One that went after the job was claimed may come back as well as any other.
            if !self.orphans.borrow().contains(&name) {
                return JobOutcome::Released;
            }
            return give_up(history, &removed(&claimed.job), claimed.attempts, None);
        };
        let carried = match payload::read(&claimed.job) {
            Ok(carried) => carried,
            Err(error) => {
                let message = format!("the job's event cannot be read: {error}");
                let failure = Failure::of(FailureKind::Event, message);
                return give_up(history, &failure, claimed.attempts, None);
            }
        };
        if claimed.attempts >= compiled.retry.attempts {
            let message = "its last attempt was never heard of again: the process that made it was killed or cut off";
            let failure = Failure::of(FailureKind::Lost, message);
            return give_up(history, &failure, claimed.attempts, None);
        }
        let age = (Utc::now() - claimed.enqueued_at).to_std();
        let left = retry_policy::remaining_deadline(&compiled.retry, age.unwrap_or_default());
        if left == Some(Duration::ZERO) {
            return give_up(history, &too_late(&compiled.retry), claimed.attempts, None);
        }
        let tries = claimed.attempts + 1;
        let Some((outcome, took)) = self.outcome(compiled, carried, tries, &claimed.claim).await
        else {
            // Somebody wants it cancelled, if it may go on: then it goes with this claim's end.
            if !self.right.is_cancelled() {
                let labels = [&*name.0, &*name.1, "cancelled"];
                self.metrics.jobs.finished.with_label_values(&labels).inc();
            }
            return JobOutcome::Released;
        };
        match outcome {
            Outcome::Done => {
                attempt_log::delivered(compiled, &claimed.job.event_id, tries, took);
                JobOutcome::Completed
            }
            Outcome::Held(wait) => JobOutcome::Retry {
                delay: wait,
                attempts: claimed.attempts,
                history: claimed.history.clone(),
            },
            Outcome::Refused(failure) => give_up(history, &failure, tries, Some(took)),
            Outcome::Retry { failure, after } => match wait(&compiled.retry, tries, after) {
                None => give_up(history, &failure, tries, Some(took)),
                Some(wait) if left.is_some_and(|left| wait >= left) => {
                    attempt::push_attempt(
                        &mut history,
                        Attempt::new(Utc::now(), &failure, Some(took)),
                    );
                    give_up(history, &too_late(&compiled.retry), tries, None)
                }
                Some(wait) => {
                    attempt_log::failed(compiled, &claimed.job.event_id, &failure, tries, wait);
                    let attempt = Attempt::new(Utc::now(), &failure, Some(took));
                    attempt::push_attempt(&mut history, attempt);
                    JobOutcome::Retry {
                        delay: wait,
                        attempts: tries,
                        history: written(&history),
                    }
                }
            },
        }
    }

    /// What comes of an attempt, and how long it took; nothing if it is cut off.
    async fn outcome(
        &self,
        compiled: &Compiled,
        carried: Carried,
        attempts: u32,
        claim: &ClaimToken,
    ) -> Option<(Outcome, Duration)> {
        let Carried { event, replay, .. } = carried;
        let cut = self.right.child_token();
        self.cancels().insert(claim.clone(), cut.clone());
        let (outcome, took) = try_once(compiled, Arc::new(event), attempts, replay, cut).await;
        self.cancels().remove(claim);
        let outcome = outcome?;
        self.metrics.attempted(&compiled.name, &outcome, took);
        Some((outcome, took))
    }

    /// Cuts off what is under way of some claims.
    pub(super) fn cancel(&self, claims: &[ClaimToken]) {
        let cancels = self.cancels();
        for claim in claims {
            if let Some(cut) = cancels.get(claim) {
                cut.cancel();
            }
        }
    }

    fn cancels(&self) -> std::sync::MutexGuard<'_, HashMap<ClaimToken, CancellationToken>> {
        lock(&self.cancels)
    }
}

fn wait(policy: &Retry, attempts: u32, after: Option<Duration>) -> Option<Duration> {
    retry_policy::wait(policy, attempts, after, rand::random())
}

fn too_late(policy: &Retry) -> Failure {
    let deadline = HumanDuration::from(policy.deadline.unwrap_or_default());
    let message = format!(
        "it was not delivered within {deadline} (retry.deadline of the action); redrive it if it is still wanted"
    );
    Failure::of(FailureKind::Deadline, message)
}

fn removed(job: &Job) -> Failure {
    let (observer, action) = (&job.lane.observer, &job.lane.action);
    let message = format!(
        "observer {observer} has no action {action} any more: bring it back and redrive, or drop this dead letter"
    );
    Failure::of(FailureKind::Removed, message)
}

fn written(history: &[Attempt]) -> Box<RawValue> {
    serde_json::value::to_raw_value(history).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]

    use ::queue::{Lane, Priority};
    use crds::config::Egress;

    use super::*;
    use crate::admission::action_runtime::Shared;
    use crate::admission::endpoint_gate::Gates;

    fn claimed(name: &ActionName) -> ClaimedJob {
        ClaimedJob {
            job: Job {
                id: "job".to_owned(),
                lane: Lane {
                    observer: Arc::clone(&name.0),
                    action: Arc::clone(&name.1),
                    hash: 1,
                },
                log_id: 1,
                event_id: "event".to_owned(),
                entity: "public.item".to_owned(),
                key: None,
                tenant: None,
                priority: Priority::default(),
                event: RawValue::from_string("{}".to_owned()).unwrap(),
            },
            claim: ClaimToken {
                job_ref: "1".to_owned(),
                generation: 1,
            },
            attempts: 0,
            history: RawValue::from_string("[]".to_owned()).unwrap(),
            enqueued_at: Utc::now(),
            queue_delay: Duration::ZERO,
        }
    }

    #[tokio::test]
    async fn a_job_claimed_before_its_action_went_waits_for_it_to_come_back() {
        let shared = Shared::new(&Egress::default(), &Gates::default()).unwrap();
        let (none, _) = Observers::compile_what_can_run(&[], &shared);
        let (_observers, observers) = watch::channel(Arc::new(none));
        let (orphaned, orphans) = watch::channel::<Arc<[ActionName]>>(Arc::from([]));
        let (tell, _ended) = mpsc::channel(1);
        let crew = Crew {
            observers,
            orphans,
            metrics: Metrics::new("default/test").unwrap(),
            right: CancellationToken::new(),
            stopping: CancellationToken::new(),
            cancels: Mutex::new(HashMap::new()),
            tell,
        };
        let name: ActionName = ("default/gone".into(), "notify".into());
        let claimed = claimed(&name);
        assert!(matches!(crew.attempt(&claimed).await, JobOutcome::Released));
        orphaned.send_replace(Arc::from([name]));
        assert!(matches!(
            crew.attempt(&claimed).await,
            JobOutcome::Discarded { .. }
        ));
    }
}
