//! Reports of attempts of jobs, which are made once the queue has accepted their results.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ::queue::{ClaimToken, ClaimedJob, JobOutcome};
use chrono::{DateTime, Utc};
use crds::config::OnFailure;
use search::DeliveryState;
use serde_json::value::RawValue;

use super::payload;
use crate::delivery::ActionName;
use crate::delivery::attempt::Attempt;
use crate::delivery::event::Event;
use crate::delivery::report::{DeliveryReport, DeliveryReporter};
use crate::sync::lock;

/// What an attempt of a job found out, beyond its outcome.
#[derive(Debug, Default)]
pub(crate) struct AttemptNotes {
    /// The event, if it was decoded.
    pub(crate) event: Option<DecodedEvent>,
    /// When an attempt succeeded, and how long it took.
    pub(crate) success: Option<(DateTime<Utc>, Duration)>,
    /// Number of attempts, with this one.
    pub(crate) attempts: u32,
}

/// A job's event, and what else its payload says.
#[derive(Debug)]
pub(crate) struct DecodedEvent {
    pub(crate) event: Arc<Event>,
    pub(crate) attempts_before: u32,
    pub(crate) replay: Option<Arc<str>>,
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
    let decoded = if let Some(decoded) = notes.event {
        decoded
    } else {
        let payload = payload::decode(&claimed.job).ok()?;
        DecodedEvent {
            event: Arc::new(payload.event),
            attempts_before: payload.attempts_before,
            replay: payload.replay,
        }
    };
    let lane = &claimed.job.lane;
    Some(DeliveryReport {
        event: decoded.event,
        name: ActionName::new(Arc::clone(&lane.observer), Arc::clone(&lane.action)),
        replay: decoded.replay,
        state,
        attempts: attempts.saturating_add(decoded.attempts_before),
        failures,
        success: notes.success,
        due_at: delay.map(|delay| Utc::now() + delay),
        job: delay.map(|_| claimed.job.id.clone()),
    })
}
