//! A work queue for each kind of object, which share the workers: when there are thousands of observers to look at, the
//! listener whose pods wait for a change has the next worker that comes free, and not the one after all of them.

use std::cmp::Ordering;

use tokio::time::Instant;

use crate::object_ref::ReconcileRequest;
use crate::work_queue::{ReconcileAction, WorkQueue};

/// Requests to reconcile, in a queue for each kind.
#[derive(Debug, Default)]
pub struct KindQueues {
    listeners: WorkQueue<ReconcileRequest>,
    observers: WorkQueue<ReconcileRequest>,
    /// Whether the last request that was taken is a listener's.
    last_was_listener: bool,
}

impl KindQueues {
    /// Adds a request that is due at a time. If it is in its queue already, the earlier time counts.
    pub fn add_at(&mut self, request: ReconcileRequest, at: Instant) {
        self.of(&request).add_at(request, at);
    }

    /// Takes a request that is due and not in process: of the kind with fewer in process, and of both in turn. So of
    /// workers that come free, each kind has half if it needs them, and more if the other does not.
    pub fn get(&mut self, now: Instant) -> Option<ReconcileRequest> {
        let (listeners, observers) = (self.listeners.running(), self.observers.running());
        let listener_first = match listeners.cmp(&observers) {
            Ordering::Less => true,
            Ordering::Equal => !self.last_was_listener,
            Ordering::Greater => false,
        };
        let (first, second) = if listener_first {
            (&mut self.listeners, &mut self.observers)
        } else {
            (&mut self.observers, &mut self.listeners)
        };
        let request = first.get(now).or_else(|| second.get(now))?;
        self.last_was_listener = matches!(request, ReconcileRequest::Listener(_));
        Some(request)
    }

    /// Returns when the next request is due that is not in process.
    #[must_use]
    pub fn next_ready_at(&self) -> Option<Instant> {
        let kinds = [&self.listeners, &self.observers].into_iter();
        kinds.filter_map(WorkQueue::next_ready_at).min()
    }

    /// Ends the processing of a request. `jitter`, between 0 and 1, spreads what is requeued.
    pub fn done(
        &mut self,
        request: &ReconcileRequest,
        action: ReconcileAction,
        now: Instant,
        jitter: f64,
    ) {
        self.of(request).done(request, action, now, jitter);
    }

    /// Returns the number of requests that wait, due or not.
    #[must_use]
    pub fn len(&self) -> usize {
        self.listeners.len() + self.observers.len()
    }

    /// Returns whether no request waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    const fn of(&mut self, request: &ReconcileRequest) -> &mut WorkQueue<ReconcileRequest> {
        match request {
            ReconcileRequest::Listener(_) => &mut self.listeners,
            ReconcileRequest::Observer(_) => &mut self.observers,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::object_ref::ObjectRef;

    fn observer(number: u64) -> ReconcileRequest {
        ReconcileRequest::Observer(ObjectRef::new("shop", number.to_string()))
    }

    fn listener(number: u64) -> ReconcileRequest {
        ReconcileRequest::Listener(ObjectRef::new("shop", number.to_string()))
    }

    /// Takes as many as there are workers.
    fn take(queues: &mut KindQueues, workers: usize, now: Instant) -> Vec<ReconcileRequest> {
        let taken = std::iter::from_fn(|| queues.get(now));
        taken.take(workers).collect()
    }

    fn done(queues: &mut KindQueues, requests: &[ReconcileRequest], now: Instant) {
        for request in requests {
            queues.done(request, ReconcileAction::AwaitChange, now, 0.0);
        }
    }

    #[test]
    fn listener_does_not_wait_for_thousands_of_observers() {
        let (mut queues, start) = (KindQueues::default(), Instant::now());
        for number in 0..5_000 {
            queues.add_at(observer(number), start);
        }
        let running = take(&mut queues, 8, start);
        assert_eq!((running.len(), queues.len()), (8, 4_992));
        let now = start + Duration::from_secs(1);
        queues.add_at(listener(0), now);
        done(&mut queues, &running[..1], now);
        assert_eq!(queues.get(now), Some(listener(0)));
    }

    #[test]
    fn each_kind_has_half_of_the_workers_or_all_that_the_other_does_not_need() {
        let (mut queues, now) = (KindQueues::default(), Instant::now());
        for number in 0..100 {
            queues.add_at(listener(number), now);
        }
        let alone = take(&mut queues, 8, now);
        assert_eq!(alone.len(), 8);
        for number in 0..100 {
            queues.add_at(observer(number), now);
        }
        done(&mut queues, &alone, now);
        let both = take(&mut queues, 8, now);
        let listeners = both.iter().filter(|one| one.kind() == "ObserverListener");
        assert_eq!(listeners.count(), 4);
    }

    #[test]
    fn a_single_worker_takes_both_kinds_in_turn_and_of_each_what_has_been_due_for_longest() {
        let (mut queues, start) = (KindQueues::default(), Instant::now());
        for second in 0..10 {
            queues.add_at(observer(second), start + Duration::from_secs(second));
        }
        for second in 0..3 {
            queues.add_at(listener(second), start + Duration::from_secs(15 + second));
        }
        let now = start + Duration::from_secs(20);
        let mut order = Vec::new();
        while let Some(request) = queues.get(now) {
            done(&mut queues, std::slice::from_ref(&request), now);
            order.push(request);
        }
        let in_turn = (0..3).flat_map(|n| [listener(n), observer(n)]);
        let wanted: Vec<_> = in_turn.chain((3..10).map(observer)).collect();
        assert_eq!(order, wanted);
        assert_eq!(queues.next_ready_at(), None);
        assert!(queues.is_empty());
    }
}
