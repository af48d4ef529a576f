//! How far deliveries of this process are with the rows that backfills have read, so that a backfill goes no faster, and
//! whether there are other events that would wait for it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use chrono::{DateTime, Utc};
use tokio::sync::watch;
use tokio::time::timeout;

/// Longest wait for a page. Its rows may be those of other processes, or of none, and receivers may be slow.
const MAX_WAIT: Duration = Duration::from_millis(250);

/// The newest page of which a row's deliveries have ended in this process, by when it was read, and the number of other
/// deliveries.
#[derive(Debug)]
pub(crate) struct PageArrivals {
    newest: watch::Sender<DateTime<Utc>>,
    live: AtomicU64,
}

impl Default for PageArrivals {
    fn default() -> Self {
        Self {
            newest: watch::Sender::new(DateTime::<Utc>::MIN_UTC),
            live: AtomicU64::new(0),
        }
    }
}

impl PageArrivals {
    /// Takes note that nothing is left to do here for a row that was read at this time.
    pub(crate) fn note(&self, read_at: DateTime<Utc>) {
        self.newest.send_if_modified(|newest| {
            let is_newer = read_at > *newest;
            if is_newer {
                *newest = read_at;
            }
            is_newer
        });
    }

    /// Takes note of a delivery of another event.
    pub(crate) fn note_live(&self) {
        self.live.fetch_add(1, Ordering::Relaxed);
    }

    /// Returns the number of deliveries of other events.
    pub(crate) fn live(&self) -> u64 {
        self.live.load(Ordering::Relaxed)
    }

    /// Waits for the first row of the page that was read at this time, for a quarter of a second at most.
    pub(crate) async fn arrived(&self, read_at: DateTime<Utc>) {
        let mut newest = self.newest.subscribe();
        let arrived = newest.wait_for(|newest| *newest >= read_at);
        // The sender lives as long as this.
        let _in_time = timeout(MAX_WAIT, arrived).await;
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn waits_for_the_page_or_a_while() {
        let (arrivals, page) = (PageArrivals::default(), DateTime::UNIX_EPOCH);
        let arrived = async || {
            let begun = Instant::now();
            arrivals.arrived(page).await;
            begun.elapsed()
        };
        arrivals.note(page - Duration::from_secs(1));
        assert_eq!(arrived().await, MAX_WAIT);
        let note = async {
            tokio::time::sleep(Duration::from_millis(3)).await;
            arrivals.note(page);
            // One of a page before, which took longer.
            arrivals.note(page - Duration::from_secs(1));
        };
        let (took, ()) = tokio::join!(arrived(), note);
        assert_eq!(took, Duration::from_millis(3));
        assert_eq!(arrived().await, Duration::ZERO);
    }
}
