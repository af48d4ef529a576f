//! Rate-limited, delaying work queue, as of client-go.
//!
//! An item is in the queue at most once, and in process at most once: an item that is added while it
//! is in process is processed again afterwards. The size is bounded by the number of objects. Time is
//! passed in.
//!
//! Items come out in the order in which they became due, and adding an item again never delays it.
//! The scheduler of `kube::runtime` promises neither, so it is not used: it hands out what is due in
//! the order of a hash table, so that under overload the same few objects are served again and again
//! and the others never; and its debounce starts over with each event, so that a rollout of many pods
//! holds up their listener. Nor does it count failures for a backoff, or reconcile an object that is
//! gone.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::hash::Hash;
use std::time::Duration;

use backoff::{Backoff, with_jitter};
use tokio::time::Instant;

/// Backoff of an item whose processing fails.
const RETRY: Backoff = Backoff::new(Duration::from_millis(500), Duration::from_mins(1));

/// Items by the time at which they are due.
#[derive(Debug)]
pub struct WorkQueue<T> {
    due: BTreeSet<(Instant, T)>,
    at: HashMap<T, Instant>,
    running: HashSet<T>,
    backoffs: HashMap<T, Backoff>,
}

/// What happens to an item after it was processed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReconcileAction {
    /// Nothing until something changes.
    AwaitChange,
    /// It is processed again after this time.
    RequeueAfter(Duration),
    /// It failed, and is processed again after a backoff.
    Failed,
}

impl<T> Default for WorkQueue<T> {
    fn default() -> Self {
        Self {
            due: BTreeSet::new(),
            at: HashMap::new(),
            running: HashSet::new(),
            backoffs: HashMap::new(),
        }
    }
}

impl<T: Clone + Eq + Hash + Ord> WorkQueue<T> {
    /// Adds an item that is due at a time. If it is in the queue already, the earlier time counts.
    pub fn add_at(&mut self, item: T, at: Instant) {
        match self.at.get(&item) {
            Some(earlier) if *earlier <= at => return,
            Some(later) => {
                self.due.remove(&(*later, item.clone()));
            }
            None => {}
        }
        self.at.insert(item.clone(), at);
        self.due.insert((at, item));
    }

    /// Takes the item that has been due for longest and is not in process.
    pub fn get(&mut self, now: Instant) -> Option<T> {
        let next = self
            .due
            .iter()
            .take_while(|(at, _)| *at <= now)
            .find(|(_, item)| !self.running.contains(item))
            .cloned()?;
        self.due.remove(&next);
        self.at.remove(&next.1);
        self.running.insert(next.1.clone());
        Some(next.1)
    }

    /// Returns when the next item is due that is not in process.
    #[must_use]
    pub fn next_ready_at(&self) -> Option<Instant> {
        self.due
            .iter()
            .find(|(_, item)| !self.running.contains(item))
            .map(|(at, _)| *at)
    }

    /// Ends the processing of an item. `jitter`, between 0 and 1, spreads what is requeued.
    pub fn done(&mut self, item: &T, action: ReconcileAction, now: Instant, jitter: f64) {
        self.running.remove(item);
        let wait = match action {
            ReconcileAction::AwaitChange => None,
            ReconcileAction::RequeueAfter(wait) => Some(wait),
            ReconcileAction::Failed => Some(self.backoff(item)),
        };
        if action != ReconcileAction::Failed {
            self.backoffs.remove(item);
        }
        if let Some(wait) = wait {
            self.add_at(item.clone(), now + with_jitter(wait, jitter));
        }
    }

    /// Returns the number of items in process.
    #[must_use]
    pub fn running(&self) -> usize {
        self.running.len()
    }

    /// Returns the number of items that wait, due or not.
    #[must_use]
    pub fn len(&self) -> usize {
        self.due.len()
    }

    /// Returns whether no item waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.due.is_empty()
    }

    fn backoff(&mut self, item: &T) -> Duration {
        let backoff = self.backoffs.entry(item.clone()).or_insert(RETRY);
        backoff.next_delay()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn earliest_due_time_counts() {
        let (mut queue, now) = (WorkQueue::default(), Instant::now());
        queue.add_at("a", now + 5 * SECOND);
        queue.add_at("a", now + SECOND);
        queue.add_at("a", now + 9 * SECOND);
        assert_eq!(queue.next_ready_at(), Some(now + SECOND));
        assert_eq!(queue.get(now), None);
        assert_eq!(queue.get(now + SECOND), Some("a"));
        assert!(queue.is_empty());
    }

    #[test]
    fn item_added_while_in_process_is_processed_again() {
        let (mut queue, now) = (WorkQueue::default(), Instant::now());
        queue.add_at("a", now);
        queue.add_at("b", now);
        assert_eq!(queue.get(now), Some("a"));
        queue.add_at("a", now);
        assert_eq!(queue.get(now), Some("b"));
        assert_eq!(queue.get(now), None);
        assert_eq!(queue.next_ready_at(), None);
        queue.done(&"a", ReconcileAction::AwaitChange, now, 0.0);
        assert_eq!(queue.get(now), Some("a"));
    }

    #[test]
    fn backoff_grows_to_its_bound_until_a_success() {
        let (mut queue, now) = (WorkQueue::default(), Instant::now());
        let mut waits = Vec::new();
        for _ in 0..12 {
            queue.add_at("a", now);
            queue.get(now);
            queue.done(&"a", ReconcileAction::Failed, now, 0.0);
            waits.extend(queue.next_ready_at().map(|at| at - now));
        }
        assert_eq!(waits[..3], [SECOND / 2, SECOND, 2 * SECOND]);
        assert_eq!(waits.last(), Some(&RETRY.max()));
        queue.add_at("a", now);
        queue.get(now);
        queue.done(&"a", ReconcileAction::RequeueAfter(10 * SECOND), now, 1.0);
        assert_eq!(queue.next_ready_at(), Some(now + SECOND.mul_f64(12.5)));
        queue.get(now + 13 * SECOND);
        queue.done(&"a", ReconcileAction::Failed, now, 0.0);
        assert_eq!(queue.next_ready_at(), Some(now + SECOND / 2));
    }

    /// More is asked for than can be done. A queue that picks among what is due in any other order than
    /// that of due times serves a few objects again and again and the rest never.
    #[test]
    fn overloaded_queue_starves_nothing() {
        let (mut queue, start) = (WorkQueue::default(), Instant::now());
        let mut done = HashMap::<u32, u32>::new();
        for object in 0..500 {
            queue.add_at(object, start);
        }
        // Eight at a time, a second each, and each is asked for again two seconds later.
        for second in 0..500 {
            let now = start + SECOND * second;
            let running: Vec<u32> = std::iter::from_fn(|| queue.get(now)).take(8).collect();
            for object in running {
                *done.entry(object).or_default() += 1;
                queue.done(
                    &object,
                    ReconcileAction::RequeueAfter(2 * SECOND),
                    now + SECOND,
                    0.0,
                );
            }
        }
        let least = done.values().min();
        assert_eq!((done.len(), least), (500, Some(&7)), "{done:?}");
    }
}
