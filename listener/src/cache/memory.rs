//! Results in this process. Bounded in bytes; what is used least goes first.

use std::time::{Duration, Instant};

use moka::Expiry;
use moka::future::Cache;
use moka::notification::RemovalCause;
use prometheus::IntCounter;

use super::key::CacheKey;
use super::stored::StoredResult;
use super::tier::CacheTier;

/// Most bytes of results.
const MAX_BYTES: u64 = 32 << 20;

/// Bytes that an entry takes besides its result.
const ENTRY_BYTES: usize = 250;

#[derive(Clone, Debug)]
struct Entry {
    /// With the times that it had when it was stored.
    stored: StoredResult,
    stored_at: Instant,
}

/// Results in this process.
#[derive(Clone, Debug)]
pub(crate) struct MemoryTier(Cache<CacheKey, Entry>);

/// Each entry has its own time.
struct Lifetime;

impl Lifetime {
    fn of(entry: &Entry) -> Duration {
        entry.stored.fresh + entry.stored.stale
    }
}

impl Expiry<CacheKey, Entry> for Lifetime {
    fn expire_after_create(&self, _: &CacheKey, entry: &Entry, _: Instant) -> Option<Duration> {
        Some(Self::of(entry))
    }

    fn expire_after_update(
        &self,
        _: &CacheKey,
        entry: &Entry,
        _: Instant,
        _: Option<Duration>,
    ) -> Option<Duration> {
        Some(Self::of(entry))
    }
}

impl MemoryTier {
    /// Creates an empty one, which counts what it drops for lack of room.
    pub(crate) fn new(evictions: IntCounter) -> Self {
        let weight = |_: &CacheKey, entry: &Entry| {
            u32::try_from(entry.stored.len() + ENTRY_BYTES).unwrap_or(u32::MAX)
        };
        let cache = Cache::builder()
            .max_capacity(MAX_BYTES)
            .weigher(weight)
            .expire_after(Lifetime)
            .eviction_listener(move |_, _, cause| {
                if cause == RemovalCause::Size {
                    evictions.inc();
                }
            })
            .build();
        Self(cache)
    }

    /// Returns about how many results there are, and their bytes.
    pub(crate) fn size(&self) -> (u64, u64) {
        (self.0.entry_count(), self.0.weighted_size())
    }
}

impl CacheTier for MemoryTier {
    async fn get(&self, key: &CacheKey) -> Option<StoredResult> {
        let Entry { stored, stored_at } = self.0.get(key).await?;
        let age = stored_at.elapsed();
        let late = age.saturating_sub(stored.fresh);
        Some(StoredResult {
            fresh: stored.fresh.saturating_sub(age),
            stale: stored.stale.saturating_sub(late),
            ..stored
        })
    }

    async fn put(&self, key: &CacheKey, result: &StoredResult) {
        let entry = Entry {
            stored: result.clone(),
            stored_at: Instant::now(),
        };
        self.0.insert(*key, entry).await;
    }
}
