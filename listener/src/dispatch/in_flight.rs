//! Deliveries in flight: their attempts, and what follows each.

use std::sync::Arc;
use std::time::Duration;

use chrono::Utc;
use crds::config::Retry;
use futures::FutureExt;
use search::DeliveryState;
use server::exemplars::RecordedSpan;
use tokio::task::{JoinError, JoinSet};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::checkpoint_buffer::CheckpointBuffer;
use super::delivery_lanes::DeliveryLanes;
use super::event_span::EventSpan;
use super::ledger::EventRef;
use super::owned_shard::OwnedShards;
use crate::capture::reader::Epoch;
use crate::delivery::ActionName;
use crate::delivery::attempt::{self, Attempt};
use crate::delivery::event::Event;
use crate::delivery::failure::Failure;
use crate::delivery::outcome::Outcome;
use crate::delivery::report::DeliveryReport;
use crate::delivery::retry_policy;
use crate::observers::attempt::{Tried, try_once};
use crate::observers::{Compiled, LaneId, attempt_log};
use crate::telemetry::metrics::Metrics;
use crate::trace::spans::Spans;

/// A delivery in a lane, with its attempts so far.
#[derive(Debug)]
pub(super) struct InFlightDelivery {
    pub(super) event: Arc<Event>,
    pub(super) event_ref: EventRef,
    /// Shard and epoch under which it was admitted.
    pub(super) owner: (u16, Epoch),
    /// When it was admitted.
    pub(super) since: Instant,
    pub(super) attempts: u32,
    pub(super) history: Vec<Attempt>,
    /// The span of its event, if that is recorded.
    pub(super) span: Option<Arc<EventSpan>>,
}

impl InFlightDelivery {
    /// Creates a delivery without attempts.
    pub(super) const fn new(
        event: Arc<Event>,
        event_ref: EventRef,
        owner: (u16, Epoch),
        since: Instant,
    ) -> Self {
        Self {
            event,
            event_ref,
            owner,
            since,
            attempts: 0,
            history: Vec::new(),
            span: None,
        }
    }

    /// Takes note that it has ended here.
    pub(super) fn settle(&self) {
        if let Some(span) = &self.span {
            span.settle();
        }
    }

    /// Adds a failure to the latest ones, with how long the attempt took.
    pub(super) fn record_failure(&mut self, failure: &Failure, took: Option<Duration>) {
        attempt::push_attempt(&mut self.history, Attempt::new(Utc::now(), failure, took));
    }

    /// Returns the report that it is in a state now.
    pub(super) fn report(&self, name: &ActionName, state: DeliveryState) -> DeliveryReport {
        DeliveryReport {
            event: Arc::clone(&self.event),
            name: name.clone(),
            replay: None,
            state,
            attempts: self.attempts,
            failures: self.history.clone(),
            success: None,
            due_at: None,
            job: None,
        }
    }
}

/// The result of an attempt.
#[derive(Debug)]
pub(super) struct AttemptResult {
    lane: LaneId,
    tried: Tried,
}

/// Makes one attempt, unless it is cancelled. A panic of the action fails this attempt alone.
fn attempt(
    lane: LaneId,
    compiled: &Compiled,
    delivery: &InFlightDelivery,
    cancel: CancellationToken,
    spans: &Spans,
) -> impl Future<Output = AttemptResult> + Send + use<> {
    let event = Arc::clone(&delivery.event);
    let made = (delivery.attempts, None);
    let trying = try_once(compiled, event, made, cancel, spans);
    // What an `async` block awaits is in it twice, and there are thousands of these.
    trying.map(move |tried| AttemptResult { lane, tried })
}

/// What follows an attempt.
#[derive(Debug, PartialEq, Eq)]
enum NextStep {
    /// The delivery is completed; with a word why it was not sent, where it was not.
    Complete(Option<&'static str>),
    /// It becomes a job at once: the attempt was deferred, and does not count.
    Requeue,
    /// It becomes a job that is due after a delay.
    Retry(Failure, Duration),
    /// It becomes a dead letter, or is dropped.
    GiveUp(Failure),
}

/// Decides what follows the attempt with this number (1 for the first).
fn next_step(
    outcome: Outcome,
    retry: &Retry,
    attempt: u32,
    random: impl FnOnce() -> f64,
) -> NextStep {
    match outcome {
        Outcome::Delivered | Outcome::Skipped | Outcome::Cached => {
            NextStep::Complete(outcome.unsent())
        }
        Outcome::Deferred(_) => NextStep::Requeue,
        Outcome::Rejected(failure) => NextStep::GiveUp(failure),
        Outcome::Retry { failure, after } => {
            match retry_policy::wait(retry, attempt, after, random()) {
                Some(delay) => NextStep::Retry(failure, delay),
                None => NextStep::GiveUp(failure),
            }
        }
    }
}

/// The attempts that run.
#[derive(Debug)]
pub(super) struct Attempts {
    running: JoinSet<AttemptResult>,
    metrics: Metrics,
    spans: Spans,
}

impl Attempts {
    /// Creates an empty set.
    pub(super) fn new(metrics: Metrics, spans: Spans) -> Self {
        Self {
            running: JoinSet::new(),
            metrics,
            spans,
        }
    }

    /// Starts the attempts that may run.
    pub(super) fn start(&mut self, lanes: &mut DeliveryLanes, shards: &mut OwnedShards) {
        while let Some((lane, delivery, compiled)) = lanes.start_next() {
            delivery.attempts += 1;
            if let Some(cancel) = shards.start_attempt(delivery.owner.0) {
                self.running
                    .spawn(attempt(lane, compiled, delivery, cancel, &self.spans));
            }
        }
    }

    /// Waits for the next result; `None` if no attempt runs.
    pub(super) async fn next_result(&mut self) -> Option<Result<AttemptResult, JoinError>> {
        self.running.join_next().await
    }

    /// Handles a result: completes the delivery, makes it a job, or gives it up. Returns whether its
    /// shard is draining.
    pub(super) fn handle_result(
        &self,
        result: AttemptResult,
        lanes: &mut DeliveryLanes,
        shards: &mut OwnedShards,
        checkpoint: &mut CheckpointBuffer,
    ) -> bool {
        let AttemptResult { lane, tried } = result;
        let Tried { took, span, .. } = tried;
        let owner = lanes.lanes().head(lane).map(|delivery| delivery.owner);
        let is_draining = owner.and_then(|owner| shards.end_attempt(owner));
        match (is_draining, tried.outcome, lanes.targets().target(lane.0)) {
            (Some(_), Some(outcome), Some(compiled)) => {
                let compiled = Arc::clone(compiled);
                self.metrics
                    .record_attempt(&compiled.name, &outcome, took, span);
                handle_outcome(lane, (outcome, took, span), &compiled, lanes, checkpoint);
            }
            // It was cancelled, or its shard is no longer owned.
            _ => {
                if let Some(delivery) = lanes.finish(lane) {
                    checkpoint.discard(&delivery.event);
                }
            }
        }
        is_draining == Some(true)
    }
}

fn handle_outcome(
    lane: LaneId,
    (outcome, took, span): (Outcome, Duration, Option<RecordedSpan>),
    compiled: &Compiled,
    lanes: &mut DeliveryLanes,
    checkpoint: &mut CheckpointBuffer,
) {
    let head = lanes.lanes().head(lane);
    let attempts = head.map_or(compiled.retry.attempts, |delivery| delivery.attempts);
    match next_step(outcome, &compiled.retry, attempts, rand::random) {
        NextStep::Complete(unsent) => {
            if let Some(delivery) = lanes.finish(lane) {
                attempt_log::delivered(compiled, &delivery.event, (attempts, span), took);
                checkpoint.delivered(&delivery, &compiled.name, (took, span), unsent);
            }
        }
        NextStep::Requeue => {
            // The queue claims no more of its jobs than there is room for.
            if let Some(mut delivery) = lanes.take_running(lane, compiled) {
                delivery.attempts = delivery.attempts.saturating_sub(1);
                lanes.requeue(lane, delivery, Duration::ZERO, checkpoint);
            }
        }
        NextStep::Retry(failure, delay) => {
            if let Some(mut delivery) = lanes.take_running(lane, compiled) {
                let made = (attempts, span);
                attempt_log::failed(compiled, &delivery.event, &failure, made, delay);
                delivery.record_failure(&failure, Some(took));
                lanes.requeue(lane, delivery, delay, checkpoint);
            }
        }
        NextStep::GiveUp(failure) => {
            if let Some(mut delivery) = lanes.finish(lane) {
                delivery.record_failure(&failure, Some(took));
                checkpoint.give_up(delivery, compiled);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::delivery::failure::FailureKind;

    #[test]
    fn last_attempt_that_fails_gives_up() {
        let retry = Retry {
            attempts: 2,
            initial_backoff: Duration::from_secs(4),
            ..Retry::default()
        };
        let failure = Failure::of(FailureKind::Timeout, "no response");
        let failed = Outcome::Retry {
            failure: failure.clone(),
            after: None,
        };
        let after = |outcome: &Outcome, n| next_step(outcome.clone(), &retry, n, || 0.5);
        assert_eq!(
            after(&failed, 1),
            NextStep::Retry(failure.clone(), Duration::from_secs(2))
        );
        assert_eq!(after(&failed, 2), NextStep::GiveUp(failure.clone()));
        let rejected = Outcome::Rejected(failure.clone());
        assert_eq!(after(&rejected, 1), NextStep::GiveUp(failure));
        let deferred = Outcome::Deferred(Duration::ZERO);
        assert_eq!(after(&deferred, 2), NextStep::Requeue);
        assert_eq!(after(&Outcome::Delivered, 2), NextStep::Complete(None));
    }
}
