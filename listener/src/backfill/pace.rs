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

/// How long the first row of a page may take to be delivered before pages become smaller: it waits for the page before.
/// Where deliveries take longer by themselves, this many times that.
const ARRIVAL_TIME: Duration = Duration::from_millis(15);
const ARRIVAL_FACTOR: u32 = 2;

/// Rows of the smallest page for that, and of the first that is not small.
const MIN_ARRIVING: u32 = 250;
const FIRST_ARRIVING: u32 = 500;

/// Of so many pages, two in a row are the smallest: the second waits for next to nothing, so its time is that of
/// deliveries by themselves.
const PROBE_EVERY: u32 = 32;
const PROBES: u32 = 2;

/// Size and pace of pages.
#[derive(Debug)]
pub(crate) struct PagePace {
    /// Most rows that are read in time.
    readable: u32,
    /// Most rows behind which live events do not wait long.
    deliverable: u32,
    /// How long the last two small pages took.
    own_times: [Duration; 2],
    /// How many pages were begun.
    pages: u32,
    rate: Option<u32>,
    begun: Instant,
}

impl PagePace {
    /// Begins with small pages, at most so many rows a second.
    pub(crate) fn new(rate: Option<u32>) -> Self {
        Self {
            readable: FIRST,
            deliverable: FIRST_ARRIVING,
            own_times: [Duration::MAX; 2],
            pages: 0,
            rate,
            begun: Instant::now(),
        }
    }

    /// Begins a page, and returns how many rows it may have.
    pub(crate) fn begin(&mut self) -> u32 {
        self.begun = Instant::now();
        // At a low rate, half a second is a page.
        let most = self.rate.map_or(u32::MAX, |rate| (rate / 2).max(1));
        self.pages = self.pages.wrapping_add(1);
        let deliverable = if self.probe().is_some() {
            MIN_ARRIVING
        } else {
            self.deliverable
        };
        self.readable.min(deliverable).min(most)
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
        } else if took < READ_TIME / 2 {
            self.readable = (self.readable * 2).min(MAX);
        }
    }

    /// The number of a small page that is to tell how long deliveries take by themselves.
    fn probe(&self) -> Option<u32> {
        let n = self.pages.wrapping_sub(1) % PROBE_EVERY;
        (n < PROBES).then_some(n)
    }

    /// Takes note of how long the first row of the page took to be delivered, after the page was in the log.
    pub(crate) fn arrived(&mut self, took: Duration) {
        match self.probe() {
            Some(n) if n + 1 == PROBES => self.own_times = [took, self.own_times[0]],
            Some(_) => {}
            None => {
                // One may have met with something else.
                let own = self.own_times[0].min(self.own_times[1]);
                // Times vary much on a machine that is busy, so nearly half of them may be too long.
                self.deliverable = if took > ARRIVAL_TIME.max(own.saturating_mul(ARRIVAL_FACTOR)) {
                    (self.deliverable - self.deliverable / 4).max(MIN_ARRIVING)
                } else {
                    (self.deliverable + self.deliverable / 4).min(MAX)
                };
            }
        }
    }

    /// Ends a page, and returns the pause before the next one.
    pub(crate) fn end(&self, rows: i64) -> Duration {
        let rows = u32::try_from(rows).unwrap_or(0);
        let whole = self
            .rate
            .map(|rate| Duration::from_secs(rows.into()) / rate);
        whole
            .unwrap_or_default()
            .saturating_sub(self.begun.elapsed())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_of_a_rate_are_half_a_second_of_it_at_most() {
        assert_eq!(PagePace::new(None).begin(), MIN_ARRIVING);
        assert_eq!(PagePace::new(Some(60)).begin(), 30);
        assert_eq!(PagePace::new(Some(1)).begin(), 1);
        let mut pace = PagePace::new(Some(100));
        let _rows = pace.begin();
        let pause = pace.end(50);
        assert!(pause > Duration::from_millis(400) && pause <= Duration::from_millis(500));
    }

    /// Plays a backfill of so many pages, each row of which takes so long, after each page's own delay.
    fn play(pace: &mut PagePace, pages: u32, (own, row): (Duration, Duration)) -> Vec<u32> {
        let (mut sizes, mut before) = (Vec::new(), 0);
        for _page in 0..pages {
            let size = pace.begin();
            pace.read();
            pace.arrived(own + row * before);
            before = size;
            sizes.push(size);
        }
        sizes
    }

    /// The largest and the mean size of the last of many pages.
    fn sizes(own: Duration, row: Duration) -> (u32, u32) {
        let all = play(&mut PagePace::new(None), 1000, (own, row));
        let last = &all[500..];
        let sum: u32 = last.iter().sum();
        (last.iter().copied().max().unwrap_or_default(), sum / 500)
    }

    #[test]
    fn pages_are_as_large_as_receivers_take_in_a_short_time() {
        let (ms, us) = (Duration::from_millis, Duration::from_micros);
        // 40,000 rows a second: 10 ms are 400, and one page more is needed to see that it was too large.
        let (largest, mean) = sizes(ms(5), us(25));
        assert!(largest <= 1200 && mean >= 300, "{largest} {mean}");
        // 4,000 a second: one of the smallest pages takes 67 ms, and others twice that.
        let (largest, mean) = sizes(ms(5), us(250));
        assert!(largest <= 1100 && mean >= MIN_ARRIVING, "{largest} {mean}");
        // Requests that take long, with many rows each, are no reason for small pages.
        let (largest, mean) = sizes(ms(100), us(1));
        assert!(largest == MAX && mean > MAX * 9 / 10, "{largest} {mean}");
        // From the beginning.
        let first = play(
            &mut PagePace::new(None),
            PROBE_EVERY,
            (ms(100), Duration::ZERO),
        );
        assert_eq!(first.last(), Some(&MAX), "{first:?}");
        // Nothing is known of rows that arrive elsewhere.
        assert_eq!(sizes(ms(250), Duration::ZERO).0, MAX);
    }

    #[tokio::test(start_paused = true)]
    async fn pages_that_take_long_shrink_less_than_pages_that_fail() {
        let mut pace = PagePace::new(None);
        for _page in 0..20 {
            let _rows = pace.begin();
            tokio::time::advance(READ_TIME * 3).await;
            pace.read();
        }
        assert_eq!(pace.readable, MIN_IN_TIME);
        for _page in 0..20 {
            pace.fail();
        }
        assert_eq!(pace.begin(), MIN);
        // It is slow yet, and then not any more.
        tokio::time::advance(READ_TIME * 3).await;
        pace.read();
        assert_eq!(pace.begin(), MIN);
        pace.read();
        assert_eq!(pace.begin(), MIN * 2);
    }

    #[test]
    fn receivers_that_become_slow_or_fast_are_followed() {
        let (fast, slow) = (Duration::from_millis(1), Duration::from_millis(100));
        let mut pace = PagePace::new(None);
        for own in [fast, slow, fast] {
            let sizes = play(&mut pace, 5 * PROBE_EVERY, (own, Duration::ZERO));
            assert_eq!(sizes.last(), Some(&MAX), "{own:?}: {sizes:?}");
        }
    }
}
