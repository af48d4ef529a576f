//! Size and pace of pages: as large as may be read in a short time, as live events do not wait long behind, and as a
//! rate allows.

use std::time::Duration;

use tokio::time::Instant;

/// Rows of a page: it begins with the first number, and is to take about [`READ_TIME`]. Of a database or a machine that
/// is slow by itself, pages that are smaller yet would only be more, so these are for pages that fail.
const FIRST: u32 = 500;
const MAX: u32 = 5000;
const MIN_IN_TIME: u32 = 250;
const MIN: u32 = 10;
const READ_TIME: Duration = Duration::from_millis(200);

/// Rows of a page while there are live events, which wait for all of it.
const BESIDE_LIVE: u32 = 250;

/// For so long after a live event, others are expected.
const LIVE: Duration = Duration::from_secs(10);

/// While there are live events and no rate was asked for, a page is followed by a pause of so many times its own time,
/// in which the database and the receivers are theirs; at most of [`MAX_PAUSE`].
const PAUSES: u32 = 2;
const MAX_PAUSE: Duration = Duration::from_millis(500);

/// Size and pace of pages.
#[derive(Debug)]
pub(crate) struct PagePace {
    /// Most rows that are read in time.
    readable: u32,
    /// Rows that the page may have.
    most: u32,
    rate: Option<u32>,
    begun: Instant,
    /// Live events that were delivered before the page, and when there were more than before.
    live: (u64, Option<Instant>),
}

impl PagePace {
    /// Begins with small pages, at most so many rows a second, after so many live events.
    pub(crate) fn new(rate: Option<u32>, live: u64) -> Self {
        Self {
            readable: FIRST,
            most: 0,
            rate,
            begun: Instant::now(),
            live: (live, None),
        }
    }

    /// Begins a page after so many live events, and returns how many rows it may have.
    pub(crate) fn begin(&mut self, live: u64) -> u32 {
        self.begun = Instant::now();
        if live != self.live.0 {
            self.live = (live, Some(self.begun));
        }
        // At a low rate, half a second is a page.
        let most = self.rate.map_or(MAX, |rate| (rate / 2).max(1));
        let deliverable = if self.is_beside_live() {
            BESIDE_LIVE
        } else {
            MAX
        };
        self.most = self.readable.min(deliverable).min(most);
        self.most
    }

    /// Takes note that a page has failed, perhaps as it took too long.
    pub(crate) fn fail(&mut self) {
        self.readable = (self.readable / 2).max(MIN);
    }

    /// Takes note that the page is read: the next one has as many rows as fit the time.
    pub(crate) fn read(&mut self) {
        let took = self.begun.elapsed();
        if took > READ_TIME * 2 {
            self.readable = (self.readable / 2).max(self.readable.min(MIN_IN_TIME));
        } else if took < READ_TIME / 2 && self.most == self.readable {
            self.readable = (self.readable * 2).min(MAX);
        }
    }

    /// Ends a page, and returns the pause before the next one.
    pub(crate) fn end(&self, rows: i64) -> Duration {
        let took = self.begun.elapsed();
        let rows = u32::try_from(rows).unwrap_or(0);
        match self.rate {
            Some(rate) => (Duration::from_secs(rows.into()) / rate).saturating_sub(took),
            None if self.is_beside_live() => (took * PAUSES).min(MAX_PAUSE),
            None => Duration::ZERO,
        }
    }

    fn is_beside_live(&self) -> bool {
        self.live.1.is_some_and(|at| at.elapsed() < LIVE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_of_a_rate_are_half_a_second_of_it_at_most() {
        assert_eq!(PagePace::new(None, 0).begin(0), FIRST);
        assert_eq!(PagePace::new(Some(60), 0).begin(0), 30);
        assert_eq!(PagePace::new(Some(1), 0).begin(0), 1);
        let mut pace = PagePace::new(Some(100), 0);
        let _rows = pace.begin(0);
        let pause = pace.end(50);
        assert!(pause > Duration::from_millis(400) && pause <= Duration::from_millis(500));
    }

    #[tokio::test(start_paused = true)]
    async fn pages_are_small_and_apart_while_there_are_live_events() {
        let (took, ms) = (Duration::from_millis(40), Duration::from_millis);
        let mut pace = PagePace::new(None, 7);
        let mut sizes = Vec::new();
        for live in [7, 7, 8, 8] {
            sizes.push(pace.begin(live));
            tokio::time::advance(took).await;
            pace.read();
        }
        assert_eq!(sizes, [FIRST, FIRST * 2, BESIDE_LIVE, BESIDE_LIVE]);
        assert_eq!(pace.end(250), took * PAUSES);
        tokio::time::advance(ms(900)).await;
        assert_eq!(pace.end(250), MAX_PAUSE, "a machine that is slow");
        tokio::time::advance(LIVE).await;
        assert_eq!(pace.begin(8), FIRST * 4, "there are none any more");
        assert_eq!(pace.end(5000), Duration::ZERO);
        // An explicit rate takes precedence.
        let mut pace = PagePace::new(Some(10_000), 0);
        assert_eq!(pace.begin(1), BESIDE_LIVE);
        tokio::time::advance(ms(10)).await;
        assert_eq!(pace.end(250), ms(15));
    }

    #[tokio::test(start_paused = true)]
    async fn pages_that_take_long_shrink_less_than_pages_that_fail() {
        let mut pace = PagePace::new(None, 0);
        for _page in 0..20 {
            let _rows = pace.begin(0);
            tokio::time::advance(READ_TIME * 3).await;
            pace.read();
        }
        assert_eq!(pace.readable, MIN_IN_TIME);
        for _page in 0..20 {
            pace.fail();
        }
        assert_eq!(pace.begin(0), MIN);
        // It is slow yet, and then not any more.
        tokio::time::advance(READ_TIME * 3).await;
        pace.read();
        assert_eq!(pace.begin(0), MIN);
        pace.read();
        assert_eq!(pace.begin(0), MIN * 2);
    }
}
