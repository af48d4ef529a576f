//! What is to be done and when.
//!
//! A piece of work stands in the queue at most once and is never done twice at the same time. What
//! is asked for while it is being done is done again afterwards. Its size is bounded by the number
//! of resources. Time is passed in.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::hash::Hash;
use std::time::Duration;

use tokio::time::Instant;

/// How long a first failure waits; doubles with each further one.
const FIRST_BACKOFF: Duration = Duration::from_millis(500);

/// Longest wait after a failure.
const MAX_BACKOFF: Duration = Duration::from_mins(1);

/// Work by the time at which it is due.
#[derive(Debug)]
pub struct Queue<W> {
    due: BTreeSet<(Instant, W)>,
    at: HashMap<W, Instant>,
    running: HashSet<W>,
    failures: HashMap<W, u32>,
}

/// How a piece of work ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Nothing more to do until something changes.
    Settled,
    /// Look again after this time.
    Again(Duration),
    /// It failed.
    Failed,
}

impl<W> Default for Queue<W> {
    fn default() -> Self {
        Self {
            due: BTreeSet::new(),
            at: HashMap::new(),
            running: HashSet::new(),
            failures: HashMap::new(),
        }
    }
}

impl<W: Clone + Eq + Hash + Ord> Queue<W> {
    /// Asks for work to be done at a time; an earlier time that was asked for stands.
    pub fn ask(&mut self, work: W, at: Instant) {
        match self.at.get(&work) {
            Some(earlier) if *earlier <= at => return,
            Some(later) => {
                self.due.remove(&(*later, work.clone()));
            }
            None => {}
        }
        self.at.insert(work.clone(), at);
        self.due.insert((at, work));
    }

    /// Takes what is due and not under way.
    pub fn take(&mut self, now: Instant) -> Option<W> {
        let next = self
            .due
            .iter()
            .take_while(|(at, _)| *at <= now)
            .find(|(_, work)| !self.running.contains(work))
            .cloned()?;
        self.due.remove(&next);
        self.at.remove(&next.1);
        self.running.insert(next.1.clone());
        Some(next.1)
    }

    /// When something that is not under way is due next.
    #[must_use]
    pub fn next(&self) -> Option<Instant> {
        self.due
            .iter()
            .find(|(_, work)| !self.running.contains(work))
            .map(|(at, _)| *at)
    }

    /// Notes the end of work that was taken. `jitter`, between 0 and 1, spreads what is done again.
    pub fn end(&mut self, work: &W, outcome: Outcome, now: Instant, jitter: f64) {
        self.running.remove(work);
        let wait = match outcome {
            Outcome::Settled => None,
            Outcome::Again(wait) => Some(wait),
            Outcome::Failed => Some(self.backoff(work)),
        };
        if outcome != Outcome::Failed {
            self.failures.remove(work);
        }
        if let Some(wait) = wait {
            // Between four and five quarters of it.
            self.ask(work.clone(), now + wait.mul_f64(1.0 + jitter / 4.0));
        }
    }

    /// Work that is waiting, due or not.
    #[must_use]
    pub fn len(&self) -> usize {
        self.due.len()
    }

    /// Whether nothing waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.due.is_empty()
    }

    fn backoff(&mut self, work: &W) -> Duration {
        let failures = self.failures.entry(work.clone()).or_default();
        let wait = FIRST_BACKOFF.saturating_mul(1 << (*failures).min(16));
        *failures = failures.saturating_add(1);
        wait.min(MAX_BACKOFF)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn the_earliest_time_stands() {
        let (mut queue, now) = (Queue::default(), Instant::now());
        queue.ask("a", now + 5 * SECOND);
        queue.ask("a", now + SECOND);
        queue.ask("a", now + 9 * SECOND);
        assert_eq!(queue.next(), Some(now + SECOND));
        assert_eq!(queue.take(now), None);
        assert_eq!(queue.take(now + SECOND), Some("a"));
        assert!(queue.is_empty());
    }

    #[test]
    fn nothing_is_done_twice_at_once_and_nothing_asked_for_meanwhile_is_lost() {
        let (mut queue, now) = (Queue::default(), Instant::now());
        queue.ask("a", now);
        queue.ask("b", now);
        assert_eq!(queue.take(now), Some("a"));
        queue.ask("a", now);
        assert_eq!(queue.take(now), Some("b"));
        assert_eq!(queue.take(now), None);
        assert_eq!(queue.next(), None);
        queue.end(&"a", Outcome::Settled, now, 0.0);
        assert_eq!(queue.take(now), Some("a"));
    }

    #[test]
    fn failures_wait_longer_up_to_a_bound_until_one_succeeds() {
        let (mut queue, now) = (Queue::default(), Instant::now());
        let mut waits = Vec::new();
        for _ in 0..12 {
            queue.ask("a", now);
            queue.take(now);
            queue.end(&"a", Outcome::Failed, now, 0.0);
            waits.extend(queue.next().map(|at| at - now));
        }
        assert_eq!(
            waits[..3],
            [FIRST_BACKOFF, 2 * FIRST_BACKOFF, 4 * FIRST_BACKOFF]
        );
        assert_eq!(waits.last(), Some(&MAX_BACKOFF));
        queue.ask("a", now);
        queue.take(now);
        queue.end(&"a", Outcome::Again(10 * SECOND), now, 1.0);
        assert_eq!(queue.next(), Some(now + SECOND.mul_f64(12.5)));
        queue.take(now + 13 * SECOND);
        queue.end(&"a", Outcome::Failed, now, 0.0);
        assert_eq!(queue.next(), Some(now + FIRST_BACKOFF));
    }

    /// More is asked for than can be done. A queue that picks among what is due in any other order than
    /// that of due times serves a few objects again and again and the rest never.
    #[test]
    fn overloaded_queue_starves_nothing() {
        let (mut queue, start) = (Queue::default(), Instant::now());
        let mut done = HashMap::<u32, u32>::new();
        for object in 0..500 {
            queue.ask(object, start);
        }
        // Eight at a time, a second each, and each is asked for again two seconds later.
        for second in 0..500 {
            let now = start + SECOND * second;
            let running: Vec<u32> = std::iter::from_fn(|| queue.take(now)).take(8).collect();
            for object in running {
                *done.entry(object).or_default() += 1;
                queue.end(&object, Outcome::Again(2 * SECOND), now + SECOND, 0.0);
            }
        }
        let least = done.values().min();
        assert_eq!((done.len(), least), (500, Some(&7)), "{done:?}");
    }
}
