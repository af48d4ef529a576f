//! How much memory what is being sent may take, over all actions of the process.
//!
//! What is rendered for a delivery is about as large as its event, and one event may call for as many
//! deliveries as there are observers. So large ones take turns; small ones are bounded by how many are
//! under way, and do not wait for these.

use tokio::sync::{Semaphore, SemaphorePermit};

use crate::delivery::event::Event;

/// Most KiB of large deliveries under way.
const MAX_KIB: u32 = 48 << 10;

/// A delivery of an event with fewer KiB than this does not count.
const MIN_KIB: u32 = 16;

/// How much is taken for each byte of an event: for what is rendered, and for what becomes of that on
/// its way.
const COPIES_PER_EVENT: u32 = 2;

static BUDGET: Semaphore = Semaphore::const_new(MAX_KIB as usize);

/// Waits for room to deliver an event; the room is given back when this is dropped.
pub(crate) async fn reserve(event: &Event) -> Option<SemaphorePermit<'static>> {
    let size = u32::try_from(event.bytes() >> 10).unwrap_or(u32::MAX);
    if size < MIN_KIB {
        return None;
    }
    // It is never closed.
    BUDGET
        .acquire_many(size.saturating_mul(COPIES_PER_EVENT).min(MAX_KIB))
        .await
        .ok()
}
