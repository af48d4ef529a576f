//! Poll loop of the change log: reads as fast as dispatch consumes, pauses while nothing is new, and
//! retries through outages of the database.

use std::sync::Arc;
use std::time::Duration;

use backoff::Backoff;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::change_log::LogError;
use super::reader::{Assignment, EventBatch, LogReader, ReadError, ReadStep};
use crate::telemetry::health::Health;
use crate::telemetry::metrics::Metrics;

/// Backoff of a read that fails.
const RETRY: Backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(2));

/// Time between two pings of the database while no shard is assigned.
const PING_INTERVAL: Duration = Duration::from_secs(1);

/// Minimum pause; below this, waking up costs more than it gains.
const MIN_PAUSE: Duration = Duration::from_millis(1);

/// The longest pause grows by its own length each time that this passes without an event.
const IDLE_STEP: Duration = Duration::from_secs(5);

/// Maximum factor by which the longest pause grows.
const DEEP_IDLE_FACTOR: u32 = 16;

/// Maximum pause while notifications of appended events arrive: one may be missed.
const NOTIFIED_PAUSE: Duration = Duration::from_secs(1);

/// The pause is this fraction of the time since the last event.
const SHARE: u32 = 16;

/// Reads for the assigned shards until `stop`, or until reading cannot continue. `before` is awaited between
/// the reading of events and their delivery.
pub async fn poll_loop<B: Future<Output = ()>>(
    (mut reader, before): (LogReader, impl Fn() -> B),
    mut assigned: watch::Receiver<Assignment>,
    batches: mpsc::Sender<EventBatch>,
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
                match tokio::time::timeout(PING_INTERVAL, assigned.changed()).await {
                    Ok(Ok(())) => {
                        reader.assign(&assigned.borrow_and_update());
                        last_event = Instant::now();
                    }
                    Ok(Err(_)) => return Ok(()),
                    // An outage must show even while no shard is assigned.
                    Err(_) => ping_database(&reader, &health).await,
                }
                continue;
            }
            // A read that never returns is a failure too.
            health.read(false, Instant::now());
            let batch = match reader.read_next().await {
                Ok(ReadStep::Batch(batch)) => Some(batch),
                Ok(ReadStep::Idle(batch)) => batch,
                Err(ReadError::Log(LogError::Database(error))) => {
                    metrics
                        .database_errors
                        .with_label_values(&["read_change_log"])
                        .inc();
                    tracing::warn!(%error, "cannot read the change log; retrying");
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
            if batch.as_ref().is_some_and(|batch| !batch.events.is_empty()) {
                before().await;
            }
            if let Some(batch) = batch
                && batches.send(batch).await.is_err()
            {
                return Ok(());
            }
            if busy {
                last_event = Instant::now();
            } else {
                let notified = reader.notifications().are_connected();
                let pause = poll_pause(last_event.elapsed(), longest, notified);
                // A new assignment must not wait for a long pause.
                tokio::select! {
                    changed = tokio::time::timeout(pause, assigned.changed()) => match changed {
                        Ok(Ok(())) => reader.assign(&assigned.borrow_and_update()),
                        Ok(Err(_)) => return Ok(()),
                        Err(_) => {}
                    },
                    () = reader.notifications().appended() => {}
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

/// Reports whether the database responds.
async fn ping_database(reader: &LogReader, health: &Health) {
    // A ping that never returns is a failure too.
    health.read(false, Instant::now());
    match reader.ping().await {
        Ok(()) => health.read(true, Instant::now()),
        Err(error) => tracing::debug!(%error, "the database does not respond"),
    }
}

/// Returns the pause after a poll that found nothing, `quiet` after the last event.
///
/// Soon after an event the next one is likely to be near, so the pause starts tiny and grows with the
/// time since the last event: a fixed share of it, up to a ceiling that is raised once nothing has
/// come for long. That keeps the added latency a small part of the time between events, and costs an
/// idle database a bounded number of cheap queries. A reader that is `notified` of appended
/// events waits for that, and polls once a second when there have been none for a while.
#[must_use]
pub fn poll_pause(quiet: Duration, longest: Duration, notified: bool) -> Duration {
    let times = u32::try_from(quiet.as_secs() / IDLE_STEP.as_secs()).unwrap_or(u32::MAX);
    let ceiling = if notified {
        NOTIFIED_PAUSE.max(longest)
    } else {
        longest.saturating_mul(times.clamp(1, DEEP_IDLE_FACTOR))
    };
    (quiet / SHARE).max(MIN_PAUSE).min(ceiling)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONGEST: Duration = Duration::from_millis(16);

    fn poll_pause(quiet: Duration, longest: Duration) -> Duration {
        super::poll_pause(quiet, longest, false)
    }

    #[test]
    fn notified_reader_polls_once_a_second() {
        let after = |seconds| super::poll_pause(Duration::from_secs(seconds), LONGEST, true);
        assert_eq!(after(0), MIN_PAUSE);
        assert_eq!(after(8), Duration::from_millis(500));
        assert_eq!(after(16), Duration::from_secs(1));
        assert_eq!(after(u64::from(u32::MAX) * 100), Duration::from_secs(1));
    }

    #[test]
    fn pause_is_a_small_part_of_time_between_events() {
        assert_eq!(poll_pause(Duration::ZERO, LONGEST), MIN_PAUSE);
        assert_eq!(
            poll_pause(Duration::from_millis(64), LONGEST),
            Duration::from_millis(4)
        );
        assert_eq!(poll_pause(Duration::from_secs(1), LONGEST), LONGEST);
    }

    #[test]
    fn idle_database_is_polled_less_often() {
        let after = |seconds| poll_pause(Duration::from_secs(seconds), LONGEST);
        assert_eq!(after(9), LONGEST);
        assert_eq!(after(10), LONGEST * 2);
        assert_eq!(after(79), LONGEST * 15);
        assert_eq!(after(80), LONGEST * 16);
        assert_eq!(after(u64::from(u32::MAX) * 100), LONGEST * 16);
    }

    #[test]
    fn ceiling_holds_below_minimum_pause() {
        assert_eq!(
            poll_pause(Duration::ZERO, Duration::from_micros(10)),
            Duration::from_micros(10)
        );
    }
}
