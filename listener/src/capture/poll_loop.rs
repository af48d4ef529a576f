//! Keeps a reader reading: as fast as dispatch takes, with pauses while nothing is new, and on
//! through outages of the database.

use std::sync::Arc;
use std::time::Duration;

use backoff::Backoff;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::change_log::LogError;
use super::poll_backoff;
use super::reader::{Assignment, Batch, ReadError, Reader, Step};
use crate::telemetry::health::Health;
use crate::telemetry::metrics::Metrics;

/// Backoff of a read that fails.
const RETRY: Backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(2));

/// While nothing is read, the database is looked for once in so long.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Reads for the shards that are assigned until `stop`, or until reading cannot go on.
pub async fn follow(
    mut reader: Reader,
    mut assigned: watch::Receiver<Assignment>,
    batches: mpsc::Sender<Batch>,
    (health, metrics): (Arc<Health>, Metrics),
    longest: Duration,
    stop: CancellationToken,
) -> Result<(), ReadError> {
    let reading = async {
        let mut last_event = Instant::now();
        let mut backoff = RETRY;
        loop {
            if assigned.has_changed().unwrap_or(false) {
                reader.assign(&assigned.borrow_and_update());
            }
            if reader.is_idle() {
                match tokio::time::timeout(LOOK_EVERY, assigned.changed()).await {
                    Ok(Ok(())) => {
                        reader.assign(&assigned.borrow_and_update());
                        last_event = Instant::now();
                    }
                    Ok(Err(_)) => return Ok(()),
                    // Whoever has no shard is to notice too that the database is away.
                    Err(_) => look_for_database(&reader, &health).await,
                }
                continue;
            }
            // An answer that never comes is a failure too.
            health.read(false, Instant::now());
            let batch = match reader.step().await {
                Ok(Step::Batch(batch)) => Some(batch),
                Ok(Step::Quiet(batch)) => batch,
                Err(ReadError::Log(LogError::Database(error))) => {
                    metrics
                        .database_errors
                        .with_label_values(&["read_change_log"])
                        .inc();
                    tracing::warn!(%error, "cannot read the log; trying again");
                    tokio::time::sleep(backoff.next_delay()).await;
                    continue;
                }
                Err(error) => return Err(error),
            };
            health.read(true, Instant::now());
            backoff.reset();
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
async fn look_for_database(reader: &Reader, health: &Health) {
    // An answer that never comes is a failure too.
    health.read(false, Instant::now());
    match reader.look_for_database().await {
        Ok(()) => health.read(true, Instant::now()),
        Err(error) => tracing::debug!(%error, "the database does not answer"),
    }
}
