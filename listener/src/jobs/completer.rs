//! Tells the queue what came of its jobs.

use std::sync::Arc;

use ::queue::{ClaimToken, FinishedClaim, JobOutcome, QueueError, WorkerId};
use tokio::time::{sleep, timeout};

use super::dead_letter_writer::DeadLetterWriter;
use super::worker::{ANSWER, FAILURE_PAUSE};
use super::worker_config::WorkerConfig;

/// Tells the queue what ended; gives it back after a pause where that failed.
pub(crate) async fn tell(
    setup: WorkerConfig,
    id: WorkerId,
    ended: Vec<FinishedClaim>,
) -> Result<usize, (Vec<FinishedClaim>, QueueError)> {
    let writer = DeadLetterWriter {
        listener: Arc::clone(&setup.listener),
        observers: Arc::clone(&setup.observers.borrow()),
    };
    let telling = timeout(ANSWER, setup.backend.queue.finish(id, &ended, &writer)).await;
    match telling.unwrap_or(Err(QueueError::NoAnswer)) {
        Ok(refused) => {
            setup.count(&ended, &refused);
            Ok(refused.len())
        }
        Err(error) => {
            sleep(FAILURE_PAUSE).await;
            Err((ended, error))
        }
    }
}

impl WorkerConfig {
    fn count(&self, ended: &[FinishedClaim], refused: &[ClaimToken]) {
        for one in ended {
            let lane = &one.job.lane;
            if refused.contains(&one.claim) {
                self.metrics.jobs.results_stale.inc();
                tracing::warn!(
                    job = one.job.id,
                    observer = &*lane.observer,
                    action = &*lane.action,
                    "others have the job by now, so what came of it here is not kept"
                );
                continue;
            }
            let outcome = match &one.outcome {
                JobOutcome::Completed => "completed",
                JobOutcome::Retry { .. } => "retry",
                JobOutcome::Discarded { .. } => "discarded",
                JobOutcome::Released => continue,
            };
            let labels = [&*lane.observer, &*lane.action, outcome];
            self.metrics
                .jobs
                .executions
                .with_label_values(&labels)
                .inc();
        }
    }
}
