//! Submission of job results to the queue.

use std::sync::Arc;

use ::queue::{ClaimToken, FinishedClaim, JobOutcome, QueueError, WorkerId};
use tokio::time::{sleep, timeout};

use super::dead_letter_writer::DeadLetterWriter;
use super::worker::{QUEUE_TIMEOUT, RETRY_INTERVAL};
use super::worker_config::WorkerConfig;

/// Submits results. On failure, returns them after [`RETRY_INTERVAL`] so that they are submitted again.
pub(crate) async fn submit_results(
    config: WorkerConfig,
    id: WorkerId,
    results: Vec<FinishedClaim>,
) -> Result<(), (Vec<FinishedClaim>, QueueError)> {
    let writer = DeadLetterWriter {
        listener: Arc::clone(&config.listener),
        observers: Arc::clone(&config.observers.borrow()),
    };
    let submission = config.backend.queue.finish(id, &results, &writer);
    let submitted = timeout(QUEUE_TIMEOUT, submission).await;
    match submitted.unwrap_or(Err(QueueError::NoAnswer)) {
        Ok(stale) => {
            config.count(&results, &stale);
            Ok(())
        }
        Err(error) => {
            sleep(RETRY_INTERVAL).await;
            Err((results, error))
        }
    }
}

impl WorkerConfig {
    fn count(&self, results: &[FinishedClaim], stale: &[ClaimToken]) {
        for result in results {
            let lane = &result.job.lane;
            let is_stale = stale.contains(&result.claim);
            self.reports.finished(&result.claim, !is_stale);
            if is_stale {
                self.metrics.jobs.results_stale.inc();
                tracing::warn!(
                    job = result.job.id,
                    observer = &*lane.observer,
                    action = &*lane.action,
                    "stale job result discarded: the claim expired, or the job was cancelled"
                );
                continue;
            }
            let outcome = match &result.outcome {
                JobOutcome::Completed => "completed",
                JobOutcome::Retry { .. } => "retry",
                JobOutcome::Discarded { .. } => "discarded",
                JobOutcome::Released => continue,
            };
            let labels = [&*lane.observer, &*lane.action, outcome];
            let executions = &self.metrics.jobs.executions;
            executions.with_label_values(&labels).inc();
        }
    }
}
