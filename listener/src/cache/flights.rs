//! Single flight: of equal requests at once one is made, and the others wait for its result.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use tokio::sync::Mutex as AsyncMutex;

use super::key::CacheKey;
use crate::sync::lock;

/// Requests under way, each with its result once it is there.
#[derive(Debug)]
pub(crate) struct Flights<T>(Arc<Mutex<HashMap<CacheKey, Slot<T>>>>);

type Slot<T> = Arc<AsyncMutex<Option<T>>>;

impl<T> Clone for Flights<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<T> Default for Flights<T> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

impl<T> Flights<T> {
    /// Returns whether an equal request is under way.
    pub(crate) fn is_under_way(&self, key: &CacheKey) -> bool {
        lock(&self.0).contains_key(key)
    }

    /// Joins an equal request that is under way, or begins it. Whoever has the slot's lock and finds nothing
    /// makes the request; if it is cut off, the next one does.
    pub(crate) fn join(&self, key: CacheKey) -> Flight<T> {
        let slot = Arc::clone(lock(&self.0).entry(key).or_default());
        Flight {
            flights: self.clone(),
            key,
            slot,
        }
    }
}

/// Part in a request under way. The last one to leave ends it.
#[derive(Debug)]
pub(crate) struct Flight<T> {
    flights: Flights<T>,
    key: CacheKey,
    pub(crate) slot: Slot<T>,
}

impl<T> Flight<T> {
    /// Lets requests that come from now on begin another one.
    pub(crate) fn land(&self) {
        let mut all = lock(&self.flights.0);
        if all
            .get(&self.key)
            .is_some_and(|slot| Arc::ptr_eq(slot, &self.slot))
        {
            all.remove(&self.key);
        }
    }
}

impl<T> Drop for Flight<T> {
    fn drop(&mut self) {
        let mut all = lock(&self.flights.0);
        // This one and that in the map: nobody else takes part.
        let is_last = all.get(&self.key).is_some_and(|slot| {
            Arc::ptr_eq(slot, &self.slot) && Arc::strong_count(&self.slot) <= 2
        });
        if is_last {
            all.remove(&self.key);
        }
    }
}
