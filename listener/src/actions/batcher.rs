//! Batcher: deliveries that share requests.
//!
//! Deliveries that are attempted within the linger time of each other share one request, and so do those
//! that come while the concurrency limit is reached. A batch has no task of its own: the deliveries that
//! wait for it drive it (a shared future), so it ends with the last of them, and a delivery that is
//! cancelled before the batch is sent is not part of it. Since deliveries of one key are attempted one
//! after the other, a batch holds no two of them.

use std::sync::{Arc, Mutex, Weak};

use crds::config::BatchConfig;
use futures::FutureExt;
use futures::future::{BoxFuture, Shared, WeakShared, join};
use tokio::sync::{Notify, Semaphore};
use tokio::time::timeout;

use crate::delivery::outcome::Outcome;
use crate::sync::lock;

/// Result of each item of a batch, in the order of joining; `None` for those that were cancelled.
type Results<O> = Arc<[Option<O>]>;

/// Batches of one action or lookup, one of which is open. Each item has a result.
pub(crate) struct Batcher<T, O = Outcome> {
    limits: BatchConfig,
    /// One for each batch in flight.
    permits: Arc<Semaphore>,
    open: Mutex<Option<OpenBatch<T, O>>>,
}

struct OpenBatch<T, O> {
    members: Arc<BatchMembers<T>>,
    sending: WeakShared<BoxFuture<'static, Results<O>>>,
}

/// Deliveries of a batch.
struct BatchMembers<T> {
    list: Mutex<MemberList<T>>,
    full: Notify,
}

struct MemberList<T> {
    items: Vec<Weak<T>>,
    bytes: usize,
    closed: bool,
}

impl<T, O> Batcher<T, O>
where
    T: Send + Sync + 'static,
    O: Clone + Send + Sync + 'static,
{
    /// Creates a batcher with at most `most` batches in flight.
    pub(crate) fn new(limits: BatchConfig, most: u32) -> Self {
        let most = usize::try_from(most).unwrap_or(Semaphore::MAX_PERMITS);
        Self {
            limits,
            permits: Arc::new(Semaphore::new(most)),
            open: Mutex::new(None),
        }
    }

    /// Returns the most items of a batch.
    pub(crate) const fn max_batch_size(&self) -> usize {
        self.limits.max_events
    }

    /// Sends an item of this size with others, and returns its result. `send` sends all items of a batch,
    /// and returns as many results; nothing is returned where it returns fewer.
    pub(crate) async fn join<F, R>(&self, item: T, bytes: usize, send: F) -> Option<O>
    where
        F: FnOnce(Vec<Arc<T>>) -> R + Send + 'static,
        R: Future<Output = Vec<O>> + Send,
    {
        // It is part of the batch for as long as this is held.
        let item = Arc::new(item);
        let (index, sending) = self.join_open(&item, bytes, send);
        sending.await.get(index).cloned().flatten()
    }

    fn join_open<F, R>(
        &self,
        item: &Arc<T>,
        bytes: usize,
        send: F,
    ) -> (usize, Shared<BoxFuture<'static, Results<O>>>)
    where
        F: FnOnce(Vec<Arc<T>>) -> R + Send + 'static,
        R: Future<Output = Vec<O>> + Send,
    {
        let mut open = lock(&self.open);
        if let Some(batch) = &*open
            && let Some(sending) = batch.sending.upgrade()
            && let Some(index) = batch.members.add(item, bytes, &self.limits)
        {
            return (index, sending);
        }
        let members = Arc::new(BatchMembers::first(item, bytes, &self.limits));
        let (linger, all) = (self.limits.linger, Arc::clone(&members));
        let permits = Arc::clone(&self.permits);
        let sending = async move {
            // Full or lingered long enough: both close it.
            let _ = timeout(linger, all.full.notified()).await;
            // Others may still join while it waits for its permit. The semaphore is never closed.
            let _permit = permits.acquire_owned().await;
            let items = all.close();
            let present = items.iter().flatten().cloned().collect();
            let mut results = send(present).await.into_iter();
            items
                .into_iter()
                .map(|item| item.and_then(|_| results.next()))
                .collect()
        };
        let sending = sending.boxed().shared();
        *open = sending
            .downgrade()
            .map(|sending| OpenBatch { members, sending });
        (0, sending)
    }
}

impl<T> BatchMembers<T> {
    fn first(item: &Arc<T>, bytes: usize, limits: &BatchConfig) -> Self {
        let members = Self {
            list: Mutex::new(MemberList {
                items: vec![Arc::downgrade(item)],
                bytes,
                closed: false,
            }),
            full: Notify::new(),
        };
        if limits.max_events <= 1 || bytes >= limits.max_bytes {
            members.full.notify_one();
        }
        members
    }

    /// Adds an item if there is room, and returns its index.
    fn add(&self, item: &Arc<T>, bytes: usize, limits: &BatchConfig) -> Option<usize> {
        let mut list = lock(&self.list);
        if list.closed || list.bytes.saturating_add(bytes) > limits.max_bytes {
            self.full.notify_one();
            return None;
        }
        let index = list.items.len();
        list.items.push(Arc::downgrade(item));
        list.bytes += bytes;
        list.closed = index + 1 >= limits.max_events;
        if list.closed {
            self.full.notify_one();
        }
        Some(index)
    }

    /// Closes the batch, and returns the items that were not cancelled.
    fn close(&self) -> Vec<Option<Arc<T>>> {
        let mut list = lock(&self.list);
        list.closed = true;
        list.items.drain(..).map(|item| item.upgrade()).collect()
    }
}

/// Sends items together by `send`. If they are rejected for what they hold, which `is_divisible` tells,
/// their halves are sent, and so on, until only what cannot be taken is rejected.
pub(crate) fn send_bisecting<'a, T, O, S, R>(
    mut items: Vec<Arc<T>>,
    is_divisible: &'a (impl Fn(&O) -> bool + Sync),
    send: &'a S,
) -> BoxFuture<'a, Vec<O>>
where
    T: Send + Sync + 'a,
    O: Clone + Send + Sync + 'a,
    S: Fn(Vec<Arc<T>>) -> R + Sync,
    R: Future<Output = O> + Send,
{
    Box::pin(async move {
        let result = send(items.clone()).await;
        if items.len() < 2 || !is_divisible(&result) {
            return vec![result; items.len()];
        }
        let others = items.split_off(items.len() / 2);
        let both = join(
            send_bisecting(items, is_divisible, send),
            send_bisecting(others, is_divisible, send),
        );
        let (mut results, of_others) = both.await;
        results.extend(of_others);
        results
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]

    use std::future::{Ready, ready};
    use std::time::Duration;

    use futures::future::join_all;
    use proptest::prelude::*;
    use tokio::sync::mpsc;

    use super::*;

    fn batcher(max_events: usize, max_bytes: usize) -> Batcher<usize> {
        Batcher::new(
            BatchConfig {
                max_events,
                max_bytes,
                linger: Duration::from_millis(10),
            },
            1,
        )
    }

    /// Tells of what it is given, and holds each back for as many milliseconds as it says.
    fn send(
        sender: &mpsc::UnboundedSender<Vec<usize>>,
        items: &[Arc<usize>],
    ) -> Ready<Vec<Outcome>> {
        let items: Vec<usize> = items.iter().map(|item| **item).collect();
        sender.send(items.clone()).unwrap();
        let held = |item: &usize| Outcome::Deferred(Duration::from_millis(*item as u64));
        ready(items.iter().map(held).collect())
    }

    #[tokio::test(start_paused = true)]
    async fn cancelled_delivery_is_not_part_of_its_batch() {
        let (sender, mut sent) = mpsc::unbounded_channel();
        let batcher = batcher(10, 1000);
        let join = |n| {
            let sender = sender.clone();
            batcher.join(n, 1, move |items| send(&sender, &items))
        };
        let leaves = timeout(Duration::from_millis(5), join(7));
        let (left, one, other) = tokio::join!(leaves, join(8), join(9));
        assert!(left.is_err());
        assert_eq!(one, Some(Outcome::Deferred(Duration::from_millis(8))));
        assert_eq!(other, Some(Outcome::Deferred(Duration::from_millis(9))));
        assert_eq!(sent.recv().await.unwrap(), [8, 9]);
        // One whose waiters have all gone is nobody's any more.
        assert!(
            timeout(Duration::from_millis(5), join(1)).await.is_err(),
            "it waits for others"
        );
        join(2).await;
        assert_eq!(sent.recv().await.unwrap(), [2]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_full_one_waits_for_no_more() {
        let (sender, mut sent) = mpsc::unbounded_channel();
        let batcher = batcher(2, 1000);
        let begun = tokio::time::Instant::now();
        let join = |n| {
            let sender = sender.clone();
            batcher.join(n, 1, move |items| send(&sender, &items))
        };
        tokio::join!(join(1), join(2));
        assert_eq!(begun.elapsed(), Duration::ZERO);
        assert_eq!(sent.recv().await.unwrap(), [1, 2]);
    }

    #[tokio::test(start_paused = true)]
    async fn batch_can_be_joined_until_its_permit_comes() {
        const TOOK: Duration = Duration::from_millis(100);
        let (sender, mut sent) = mpsc::unbounded_channel();
        let batcher = batcher(5, 1000);
        let join = async |n| {
            // Each comes after the one before has lingered.
            tokio::time::sleep(Duration::from_millis(15) * u32::try_from(n).unwrap()).await;
            let sender = sender.clone();
            let slow = async move |items: Vec<Arc<usize>>| {
                tokio::time::sleep(TOOK).await;
                send(&sender, &items).await
            };
            batcher.join(n, 1, slow).await
        };
        let begun = tokio::time::Instant::now();
        join_all((0..7).map(join)).await;
        assert_eq!(sent.recv().await.unwrap(), [0]);
        assert_eq!(
            sent.recv().await.unwrap(),
            [1, 2, 3, 4, 5],
            "as many as one holds"
        );
        assert_eq!(sent.recv().await.unwrap(), [6]);
        assert!(begun.elapsed() >= TOOK * 3, "one after the other");
    }

    proptest! {
        /// Each is sent once, in the order of joining, in batches within their bounds, and gets its
        /// own outcome.
        #[test]
        fn each_is_sent_once_within_the_bounds(
            sizes in proptest::collection::vec(1_usize..60, 1..60),
            max_events in 1_usize..10,
            max_bytes in 1_usize..100,
        ) {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_time()
                .start_paused(true)
                .build()
                .unwrap();
            let (sender, mut sent) = mpsc::unbounded_channel();
            runtime.block_on(async {
                let batcher = batcher(max_events, max_bytes);
                let all = sizes.iter().enumerate().map(|(n, size)| {
                    let sender = sender.clone();
                    batcher.join(n, *size, move |items| send(&sender, &items))
                });
                for (n, outcome) in join_all(all).await.into_iter().enumerate() {
                    assert_eq!(outcome, Some(Outcome::Deferred(Duration::from_millis(n as u64))));
                }
            });
            drop(sender);
            let mut seen = Vec::new();
            while let Some(batch) = sent.blocking_recv() {
                prop_assert!(batch.len() <= max_events);
                let bytes: usize = batch.iter().map(|n| sizes[*n]).sum();
                prop_assert!(batch.len() == 1 || bytes <= max_bytes);
                seen.extend(batch);
            }
            seen.sort_unstable();
            prop_assert_eq!(seen, (0..sizes.len()).collect::<Vec<_>>());
        }
    }
}
