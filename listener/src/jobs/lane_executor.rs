//! Execution of one lane's jobs, in order.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use ::queue::{ClaimToken, ClaimedJob, FinishedClaim, Job, JobOutcome, LaneBatch, failpoint};
use chrono::Utc;
use crds::config::{OnFailure, Retry};
use crds::duration::HumanDuration;
use opentelemetry::KeyValue;
use opentelemetry::trace::SpanKind;
use serde_json::value::RawValue;
use server::exemplars::RecordedSpan;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::payload::{self, JobPayload};
use super::reports::{AttemptNotes, JobReports};
use crate::delivery::ActionName;
use crate::delivery::attempt::{self, Attempt};
use crate::delivery::event::Event;
use crate::delivery::failure::{Failure, FailureKind};
use crate::delivery::outcome::Outcome;
use crate::delivery::report::Success;
use crate::delivery::retry_policy;
use crate::observers::attempt::try_once;
use crate::observers::attempt_log;
use crate::observers::{Compiled, Observers};
use crate::sync::lock;
use crate::telemetry::metrics::Metrics;
use crate::trace::spans::{Finished, Spans};

/// Executor of lane batches, shared by all that run.
#[derive(Debug)]
pub(crate) struct LaneExecutor {
    pub(crate) observers: watch::Receiver<Arc<Observers>>,
    /// Actions that no observer has had for a while, whose jobs are discarded.
    pub(crate) orphans: watch::Receiver<Arc<[ActionName]>>,
    pub(crate) metrics: Metrics,
    pub(crate) spans: Spans,
    pub(crate) reports: JobReports,
    /// Cancelled before the lease expires, and at the end of the drain timeout.
    pub(crate) lease_token: CancellationToken,
    /// Cancelled when no more jobs are to be started.
    pub(crate) stopping: CancellationToken,
    /// Cancel single attempts.
    pub(super) cancels: Mutex<HashMap<ClaimToken, CancellationToken>>,
    pub(super) results: mpsc::Sender<FinishedClaim>,
}

/// Runs the jobs of a lane until one is to be retried, or all have finished. Releases the rest.
pub(super) async fn run_lane(batch: LaneBatch, executor: Arc<LaneExecutor>) {
    let mut unblocked = true;
    for claimed in batch.jobs {
        let stopped = executor.stopping.is_cancelled() || executor.lease_token.is_cancelled();
        let runs = unblocked && !stopped;
        let outcome = if runs {
            let mut notes = AttemptNotes::default();
            let outcome = executor.attempt(&claimed, &mut notes).await;
            executor.report(&claimed, &outcome, notes);
            failpoint!("job-attempted");
            outcome
        } else {
            JobOutcome::Released
        };
        unblocked = runs
            && matches!(
                outcome,
                JobOutcome::Completed | JobOutcome::Discarded { .. }
            );
        let result = FinishedClaim {
            job: Arc::new(claimed.job),
            claim: claimed.claim,
            outcome,
            enqueued_at: claimed.enqueued_at,
        };
        if executor.results.send(result).await.is_err() {
            return;
        }
    }
}

impl LaneExecutor {
    /// Reports an outcome once the queue has accepted it.
    fn report(&self, claimed: &ClaimedJob, outcome: &JobOutcome, notes: AttemptNotes) {
        let name = ActionName::from(&claimed.job.lane);
        let compiled = self.observers.borrow().compiled(&name);
        let on_failure = compiled.map_or(OnFailure::DeadLetter, |compiled| compiled.on_failure);
        self.reports.attempted(claimed, outcome, notes, on_failure);
    }

    async fn attempt(&self, claimed: &ClaimedJob, notes: &mut AttemptNotes) -> JobOutcome {
        let name = ActionName::from(&claimed.job.lane);
        let mut history: Vec<Attempt> =
            serde_json::from_str(claimed.history.get()).unwrap_or_default();
        let compiled = self.observers.borrow().compiled(&name);
        let discard = |mut history: Vec<Attempt>, failure: &Failure, attempts, took| {
            let last = Attempt::new(Utc::now(), failure, took);
            let event = (&*claimed.job.event_id, &*claimed.job.entity);
            let then = compiled
                .as_ref()
                .map_or(OnFailure::DeadLetter, |compiled| compiled.on_failure);
            self.metrics
                .record_failed_delivery(event, &name, attempts, &last, then);
            attempt::push_attempt(&mut history, last);
            JobOutcome::Discarded {
                attempts,
                history: encode_history(&history),
            }
        };
        let Some(compiled) = &compiled else {
            // An action that was removed after the job was claimed may be restored, like any other.
            if !self.orphans.borrow().contains(&name) {
                return JobOutcome::Released;
            }
            let failure = action_removed(&claimed.job);
            return discard(history, &failure, claimed.attempts, None);
        };
        let payload = match payload::decode(&claimed.job) {
            Ok(payload) => payload,
            Err(error) => {
                let message = format!("the job's event cannot be decoded: {error}");
                let failure = Failure::of(FailureKind::Event, message);
                return discard(history, &failure, claimed.attempts, None);
            }
        };
        if claimed.attempts >= compiled.retry.attempts {
            let message = "its last attempt has no result: the process that made it was killed or lost its lease";
            let failure = Failure::of(FailureKind::Lost, message);
            return discard(history, &failure, claimed.attempts, None);
        }
        let age = (Utc::now() - claimed.enqueued_at).to_std();
        let remaining = retry_policy::remaining_deadline(&compiled.retry, age.unwrap_or_default());
        if remaining == Some(Duration::ZERO) {
            let failure = deadline_exceeded(&compiled.retry);
            return discard(history, &failure, claimed.attempts, None);
        }
        let attempts = claimed.attempts + 1;
        notes.attempts = attempts;
        let event = Arc::clone(&payload.event);
        self.record_wait(claimed, &event, attempts);
        let outcome = self.outcome(compiled, &payload, attempts, &claimed.claim);
        let attempted = outcome.await;
        notes.payload = Some(payload);
        let Some((outcome, took, span)) = attempted else {
            // While the lease is valid, only a cancelled job has no outcome; its release removes it.
            if !self.lease_token.is_cancelled() {
                let labels = [&*name.observer, &*name.action, "cancelled"];
                let executions = &self.metrics.jobs.executions;
                executions.with_label_values(&labels).inc();
            }
            return JobOutcome::Released;
        };
        match outcome {
            Outcome::Delivered | Outcome::Skipped | Outcome::Cached => {
                attempt_log::delivered(compiled, &event, (attempts, span), took);
                notes.success = Some(Success {
                    at: Utc::now(),
                    took,
                    unsent: outcome.unsent(),
                });
                JobOutcome::Completed
            }
            Outcome::Deferred(wait) => JobOutcome::Retry {
                delay: wait,
                attempts: claimed.attempts,
                history: claimed.history.clone(),
            },
            Outcome::Rejected(failure) => discard(history, &failure, attempts, Some(took)),
            Outcome::Retry { failure, after } => match wait(&compiled.retry, attempts, after) {
                None => discard(history, &failure, attempts, Some(took)),
                Some(wait) if remaining.is_some_and(|remaining| wait >= remaining) => {
                    attempt::push_attempt(
                        &mut history,
                        Attempt::new(Utc::now(), &failure, Some(took)),
                    );
                    discard(history, &deadline_exceeded(&compiled.retry), attempts, None)
                }
                Some(wait) => {
                    attempt_log::failed(compiled, &event, &failure, (attempts, span), wait);
                    let attempt = Attempt::new(Utc::now(), &failure, Some(took));
                    attempt::push_attempt(&mut history, attempt);
                    JobOutcome::Retry {
                        delay: wait,
                        attempts,
                        history: encode_history(&history),
                    }
                }
            },
        }
    }

    /// Records how long the job has waited since it was due.
    fn record_wait(&self, claimed: &ClaimedJob, event: &Event, attempt: u32) {
        let Some(trace) = self.spans.of_event(&event.id, event.trace) else {
            return;
        };
        let lane = &claimed.job.lane;
        let due = SystemTime::now().checked_sub(claimed.queue_delay);
        trace.end_part(
            due.unwrap_or(SystemTime::UNIX_EPOCH),
            Finished {
                name: Cow::Borrowed("job"),
                kind: SpanKind::Internal,
                attributes: vec![
                    KeyValue::new("observer.name", Arc::clone(&lane.observer)),
                    KeyValue::new("observer.action", Arc::clone(&lane.action)),
                    KeyValue::new("observer.attempt", i64::from(attempt)),
                ],
                error: None,
            },
        );
    }

    /// Makes an attempt. Returns its outcome, its duration and its span, if that is recorded; `None` if it is
    /// cancelled.
    async fn outcome(
        &self,
        compiled: &Compiled,
        payload: &JobPayload,
        attempts: u32,
        claim: &ClaimToken,
    ) -> Option<(Outcome, Duration, Option<RecordedSpan>)> {
        let (event, replay) = (Arc::clone(&payload.event), payload.replay.clone());
        let token = self.lease_token.child_token();
        self.cancels().insert(claim.clone(), token.clone());
        let made = (attempts, replay);
        let tried = try_once(compiled, event, made, token, &self.spans).await;
        self.cancels().remove(claim);
        let (outcome, took) = (tried.outcome?, tried.took);
        self.metrics
            .record_attempt(&compiled.name, &outcome, took, tried.span);
        if outcome == Outcome::Delivered && payload.replay.is_none() {
            let occurred_at = payload.event.occurred_at;
            self.metrics
                .record_delivered(&compiled.name, occurred_at, Utc::now(), tried.span);
        }
        Some((outcome, took, tried.span))
    }

    /// Cancels the attempts of some claims.
    pub(super) fn cancel(&self, claims: &[ClaimToken]) {
        let cancels = self.cancels();
        for claim in claims {
            if let Some(token) = cancels.get(claim) {
                token.cancel();
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

fn deadline_exceeded(policy: &Retry) -> Failure {
    let deadline = HumanDuration::from(policy.deadline.unwrap_or_default());
    let message = format!(
        "it was not delivered within {deadline} (retry.deadline of the action); redrive it if it is still wanted"
    );
    Failure::of(FailureKind::Deadline, message)
}

fn action_removed(job: &Job) -> Failure {
    let (observer, action) = (&job.lane.observer, &job.lane.action);
    let message = format!(
        "observer {observer} has no action {action} any more: restore it and redrive, or drop this dead letter"
    );
    Failure::of(FailureKind::Removed, message)
}

fn encode_history(history: &[Attempt]) -> Box<RawValue> {
    serde_json::value::to_raw_value(history).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]

    use ::queue::{Lane, Priority};
    use crds::config::Egress;

    use super::*;
    use crate::admission::action_runtime::ActionRuntime;
    use crate::admission::endpoint_gate::EndpointRegistry;

    fn claimed(name: &ActionName) -> ClaimedJob {
        ClaimedJob {
            job: Job {
                id: "job".to_owned(),
                lane: Lane {
                    observer: Arc::clone(&name.observer),
                    action: Arc::clone(&name.action),
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
    async fn job_of_a_removed_action_is_released_until_it_is_orphaned() {
        let shared = ActionRuntime::new(&Egress::default(), &EndpointRegistry::default()).unwrap();
        let (none, _) = Observers::compile_what_can_run(&[], &shared);
        let (_observers, observers) = watch::channel(Arc::new(none));
        let (orphaned, orphans) = watch::channel::<Arc<[ActionName]>>(Arc::from([]));
        let (results, _receiver) = mpsc::channel(1);
        let executor = LaneExecutor {
            observers,
            orphans,
            metrics: Metrics::new("default/test").unwrap(),
            spans: Spans::default(),
            reports: JobReports::default(),
            lease_token: CancellationToken::new(),
            stopping: CancellationToken::new(),
            cancels: Mutex::new(HashMap::new()),
            results,
        };
        let name = ActionName::new("default/gone", "notify");
        let claimed = claimed(&name);
        assert!(matches!(
            executor
                .attempt(&claimed, &mut AttemptNotes::default())
                .await,
            JobOutcome::Released
        ));
        orphaned.send_replace(Arc::from([name]));
        assert!(matches!(
            executor
                .attempt(&claimed, &mut AttemptNotes::default())
                .await,
            JobOutcome::Discarded { .. }
        ));
    }
}
