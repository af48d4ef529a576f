//! Reports of attempts of jobs, which are made once the queue has accepted their results.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use ::queue::{ClaimToken, ClaimedJob, JobOutcome};
use chrono::Utc;
use crds::config::OnFailure;
use search::DeliveryState;
use serde_json::value::RawValue;

use super::payload::{self, JobPayload};
use crate::delivery::ActionName;
use crate::delivery::attempt::Attempt;
use crate::delivery::report::{DeliveryReport, DeliveryReporter, Success};
use crate::sync::lock;

/// What an attempt of a job found out, beyond its outcome.
#[derive(Debug, Default)]
pub(crate) struct AttemptNotes {
    /// What the job holds, if it was decoded.
    pub(crate) payload: Option<JobPayload>,
    /// When an attempt succeeded, and how long it took.
    pub(crate) success: Option<Success>,
    /// Number of attempts, with this one.
    pub(crate) attempts: u32,
}

/// Reports of claims whose results the queue has not accepted yet. There are no more of them than results.
#[derive(Clone, Debug, Default)]
pub(crate) struct JobReports {
    reporter: DeliveryReporter,
    waiting: Arc<Mutex<HashMap<ClaimToken, DeliveryReport>>>,
}

impl JobReports {
    /// Creates reports for a reporter.
    pub(crate) fn new(reporter: DeliveryReporter) -> Self {
        Self {
            reporter,
            waiting: Arc::default(),
        }
    }

    /// Keeps the report of an attempt until its result is accepted.
    pub(crate) fn attempted(
        &self,
        claimed: &ClaimedJob,
        outcome: &JobOutcome,
        notes: AttemptNotes,
        on_failure: OnFailure,
    ) {
        if !self.reporter.is_enabled() {
            return;
        }
        if let Some(report) = report(claimed, outcome, notes, on_failure) {
            lock(&self.waiting).insert(claimed.claim.clone(), report);
        }
    }

    /// Makes the report of a claim, if its result was accepted.
    pub(crate) fn finished(&self, claim: &ClaimToken, is_accepted: bool) {
        if !self.reporter.is_enabled() {
            return;
        }
        let report = lock(&self.waiting).remove(claim);
        if let Some(report) = report.filter(|_| is_accepted) {
            self.reporter.report(|| report);
        }
    }

    /// Drops the reports of claims that are lost.
    pub(crate) fn clear(&self) {
        lock(&self.waiting).clear();
    }
}

/// Returns the report of an outcome, if it says more than is known already.
fn report(
    claimed: &ClaimedJob,
    outcome: &JobOutcome,
    notes: AttemptNotes,
    on_failure: OnFailure,
) -> Option<DeliveryReport> {
    let failures = |history: &RawValue| -> Vec<Attempt> {
        serde_json::from_str(history.get()).unwrap_or_default()
    };
    let (state, attempts, failures, delay) = match outcome {
        JobOutcome::Completed => {
            let failures = failures(&claimed.history);
            (DeliveryState::Delivered, notes.attempts, failures, None)
        }
        JobOutcome::Retry {
            delay,
            attempts,
            history,
        } if *attempts > claimed.attempts => {
            let failures = failures(history);
            (DeliveryState::Retrying, *attempts, failures, Some(*delay))
        }
        JobOutcome::Discarded { attempts, history } => {
            let state = match on_failure {
                OnFailure::DeadLetter => DeliveryState::DeadLetter,
                OnFailure::Drop => DeliveryState::Dropped,
            };
            (state, *attempts, failures(history), None)
        }
        JobOutcome::Retry { .. } | JobOutcome::Released => return None,
    };
    let payload = match notes.payload {
        Some(payload) => payload,
        None => payload::decode(&claimed.job).ok()?,
    };
    Some(DeliveryReport {
        event: payload.event,
        name: ActionName::from(&claimed.job.lane),
        replay: payload.replay,
        state,
        attempts: attempts.saturating_add(payload.attempts_before),
        failures,
        success: notes.success,
        due_at: delay.map(|delay| Utc::now() + delay),
        job: delay.map(|_| claimed.job.id.clone()),
    })
}
