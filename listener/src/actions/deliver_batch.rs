//! Kinds of action that send several deliveries by one request.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use futures::FutureExt;
use futures::future::{BoxFuture, ready};

use super::batcher::Batcher;
use super::deliver_action::DeliverAction;
use crate::admission::control::AdmissionControl;
use crate::delivery::Delivery;
use crate::delivery::failure::Failure;
use crate::delivery::outcome::Outcome;

/// Compiled action whose deliveries may share requests.
pub(super) trait DeliverBatch: DeliverAction + 'static {
    /// What one delivery is in a batch.
    type Item: Send + Sync + 'static;

    /// Returns its batches, where deliveries share requests.
    fn batcher(&self) -> Option<&Batcher<Self::Item>>;

    /// Returns whether a delivery may join a batch. A retry may not, so that it holds up
    /// no other delivery.
    fn may_join(delivery: &Delivery) -> bool {
        delivery.attempt == 1
    }

    /// Renders what is sent for a delivery.
    fn item(&self, delivery: &Delivery, now: DateTime<Utc>) -> Result<Self::Item, Failure>;

    /// Returns the size of an item in bytes.
    fn size(item: &Self::Item) -> usize;

    /// Sends items by as few requests as it takes, each admitted by `admission`, and returns an outcome
    /// for each item.
    fn send_batch(
        &self,
        items: Vec<Arc<Self::Item>>,
        admission: &AdmissionControl,
        first: &Delivery,
        now: DateTime<Utc>,
    ) -> impl Future<Output = Vec<Outcome>> + Send;
}

/// Delivers in a batch: implements [`DeliverAction::join_batch`].
pub(super) fn join_batch<'a, A: DeliverBatch>(
    action: Arc<A>,
    admission: &'a Arc<AdmissionControl>,
    delivery: &'a Delivery,
    now: DateTime<Utc>,
) -> Option<BoxFuture<'a, Outcome>> {
    if action.batcher().is_none() || !A::may_join(delivery) {
        return None;
    }
    let item = match action.item(delivery, now) {
        Ok(item) => item,
        Err(failure) => return Some(ready(Outcome::Rejected(failure)).boxed()),
    };
    Some(Box::pin(async move {
        let bytes = A::size(&item);
        let (sender, admission) = (Arc::clone(&action), Arc::clone(admission));
        let first = delivery.clone();
        let send = async move |items| sender.send_batch(items, &admission, &first, now).await;
        let joined = match action.batcher() {
            Some(batcher) => batcher.join(item, bytes, send).await,
            None => None,
        };
        joined.unwrap_or(Outcome::Deferred(std::time::Duration::ZERO))
    }))
}
