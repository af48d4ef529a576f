//! Memory budget of deliveries in flight, over all actions of the process.
//!
//! What is rendered for a delivery is about as large as its event, and one event may call for as many
//! deliveries as there are observers. So large ones wait for budget; small ones are bounded by their
//! number, and do not wait.

use tokio::sync::{Semaphore, SemaphorePermit};

use crate::delivery::Delivery;

/// Most KiB of large deliveries in flight.
const MAX_KIB: u32 = 48 << 10;

/// Deliveries of events smaller than this many KiB are not counted.
const MIN_KIB: u32 = 16;

/// Bytes reserved for each byte of an event and its lookups: for what is rendered, and for its copy in a client's buffers.
const COPIES_PER_EVENT: u32 = 2;

static BUDGET: Semaphore = Semaphore::const_new(MAX_KIB as usize);

/// Waits for budget for a delivery. Dropping the permit releases it.
pub(crate) async fn reserve(delivery: &Delivery) -> Option<SemaphorePermit<'static>> {
    let results = delivery.enrich.as_deref().map_or(0, |all| all.get().len());
    let bytes = delivery.event.bytes() + results as u64;
    let size = u32::try_from(bytes >> 10).unwrap_or(u32::MAX);
    if size < MIN_KIB {
        return None;
    }
    // It is never closed.
    BUDGET
        .acquire_many(size.saturating_mul(COPIES_PER_EVENT).min(MAX_KIB))
        .await
        .ok()
}
