//! Keeps a reader reading: as fast as dispatch takes, with pauses while nothing is new, and on
//! through outages of the database.

use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::log::LogError;
use super::pace;
use super::reader::{Batch, ReadError, Reader, Step};
use crate::api::Sources;

/// Wait after the first failure; doubles with each further one.
const FIRST_WAIT: Duration = Duration::from_millis(100);

/// Longest wait after a failure.
const LONGEST_WAIT: Duration = Duration::from_secs(2);

/// Reads until `stop`, or until reading cannot go on.
pub async fn follow(
    mut reader: Reader,
    batches: mpsc::Sender<Batch>,
    sources: Sources,
    longest: Duration,
    stop: CancellationToken,
) -> Result<(), ReadError> {
    let reading = async {
        let mut last_event = Instant::now();
        let mut wait = FIRST_WAIT;
        loop {
            // An answer that never comes is a failure too.
            sources.health.read(false, Instant::now());
            let batch = match reader.step().await {
                Ok(Step::Batch(batch)) => Some(batch),
                Ok(Step::Quiet(batch)) => batch,
                Err(ReadError::Log(LogError::Database(error))) => {
                    sources
                        .metrics
                        .database_errors
                        .with_label_values(&["read"])
                        .inc();
                    tracing::warn!(%error, "cannot read the log; trying again");
                    tokio::time::sleep(wait).await;
                    wait = (wait * 2).min(LONGEST_WAIT);
                    continue;
                }
                Err(error) => return Err(error),
            };
            sources.health.read(true, Instant::now());
            wait = FIRST_WAIT;
            let busy = batch
                .as_ref()
                .is_some_and(|batch| !batch.events.is_empty() || batch.backlog > 0);
            if let Some(batch) = batch
                && batches.send(batch).await.is_err()
            {
                return Ok(());
            }
            if busy {
                last_event = Instant::now();
            } else {
                tokio::time::sleep(pace::pause(last_event.elapsed(), longest)).await;
            }
        }
    };
    tokio::select! {
        result = reading => result,
        () = stop.cancelled() => Ok(()),
    }
}
