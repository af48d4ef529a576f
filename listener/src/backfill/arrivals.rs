//! How far deliveries of this process are with the rows that backfills have read, so that a backfill goes no faster.

use std::time::Duration;

use chrono::{DateTime, Utc};
use tokio::sync::watch;
use tokio::time::{Instant, timeout};

/// Longest wait for a page. Its rows may be those of other processes, or of none, and receivers may be slow.
const MAX_WAIT: Duration = Duration::from_millis(250);

/// The newest page of which a row's deliveries have ended in this process, by when it was read.
#[derive(Debug)]
pub(crate) struct PageArrivals(watch::Sender<DateTime<Utc>>);

impl Default for PageArrivals {
    fn default() -> Self {
        Self(watch::Sender::new(DateTime::<Utc>::MIN_UTC))
    }
}

impl PageArrivals {
    /// Takes note that nothing is left to do here for a row that was read at this time.
    pub(crate) fn note(&self, read_at: DateTime<Utc>) {
        self.0.send_if_modified(|newest| {
            let is_newer = read_at > *newest;
            if is_newer {
                *newest = read_at;
            }
            is_newer
        });
    }

    /// Waits for the first row of the page that was read at this time, for a quarter of a second at most. Returns how
    /// long that took.
    pub(crate) async fn arrived(&self, read_at: DateTime<Utc>) -> Duration {
        let begun = Instant::now();
        let mut newest = self.0.subscribe();
        let arrived = newest.wait_for(|newest| *newest >= read_at);
        // The sender lives as long as this.
        let _in_time = timeout(MAX_WAIT, arrived).await;
        begun.elapsed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn waits_for_the_page_or_a_while() {
        let (arrivals, page) = (PageArrivals::default(), DateTime::UNIX_EPOCH);
        arrivals.note(page - Duration::from_secs(1));
        assert_eq!(arrivals.arrived(page).await, MAX_WAIT);
        let note = async {
            tokio::time::sleep(Duration::from_millis(3)).await;
            arrivals.note(page);
            // One of a page before, which took longer.
            arrivals.note(page - Duration::from_secs(1));
        };
        let (took, ()) = tokio::join!(arrivals.arrived(page), note);
        assert_eq!(took, Duration::from_millis(3));
        assert_eq!(arrivals.arrived(page).await, Duration::ZERO);
    }
}
