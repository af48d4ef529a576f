//! Keeps a reader reading: as fast as dispatch takes, with pauses while nothing is new, and on
//! through outages of the database.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::change_log::LogError;
use super::poll_backoff;
use super::reader::{Assignment, EventBatch, LogReader, ReadError, ReadStep};
use crate::telemetry::health::Health;
use crate::telemetry::metrics::Metrics;

/// Wait after the first failure; doubles with each further one.
const FIRST_WAIT: Duration = Duration::from_millis(100);

/// Longest wait after a failure.
const LONGEST_WAIT: Duration = Duration::from_secs(2);

/// While nothing is read, the database is looked for once in so long.
const PING_INTERVAL: Duration = Duration::from_secs(1);

/// Reads for the shards that are assigned until `stop`, or until reading cannot go on.
pub async fn poll_loop(
    mut reader: LogReader,
    mut assigned: watch::Receiver<Assignment>,
    batches: mpsc::Sender<EventBatch>,
    (health, metrics): (Arc<Health>, Metrics),
    longest: Duration,
    stop: CancellationToken,
) -> Result<(), ReadError> {
    let reading = async {
        let mut last_event = Instant::now();
        let mut wait = FIRST_WAIT;
        loop {
            if assigned.has_changed().unwrap_or(false) {
                reader.assign(&assigned.borrow_and_update());
            }
            if reader.is_idle() {
                match tokio::time::timeout(PING_INTERVAL, assigned.changed()).await {
                    Ok(Ok(())) => {
                        reader.assign(&assigned.borrow_and_update());
                        last_event = Instant::now();
                    }
                    Ok(Err(_)) => return Ok(()),
                    // Whoever has no shard is to notice too that the database is away.
                    Err(_) => ping(&reader, &health).await,
                }
                continue;
            }
            // An answer that never comes is a failure too.
            health.read(false, Instant::now());
            let batch = match reader.step().await {
                Ok(ReadStep::Batch(batch)) => Some(batch),
                Ok(ReadStep::Idle(batch)) => batch,
                Err(ReadError::Log(LogError::Database(error))) => {
                    metrics.database_errors.with_label_values(&["read"]).inc();
                    tracing::warn!(%error, "cannot read the log; trying again");
                    tokio::time::sleep(wait).await;
                    wait = (wait * 2).min(LONGEST_WAIT);
                    continue;
                }
                Err(error) => return Err(error),
            };
            health.read(true, Instant::now());
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
                let pause = poll_backoff::pause(last_event.elapsed(), longest);
                // Another assignment is not to wait for a long pause.
                match tokio::time::timeout(pause, assigned.changed()).await {
                    Ok(Ok(())) => reader.assign(&assigned.borrow_and_update()),
                    Ok(Err(_)) => return Ok(()),
                    Err(_) => {}
                }
            }
        }
    };
    tokio::select! {
        biased;
        () = stop.cancelled() => Ok(()),
        result = reading => result,
    }
}

/// Notes whether the database answers.
async fn ping(reader: &LogReader, health: &Health) {
    // An answer that never comes is a failure too.
    health.read(false, Instant::now());
    match reader.ping().await {
        Ok(()) => health.read(true, Instant::now()),
        Err(error) => tracing::debug!(%error, "the database does not answer"),
    }
}
