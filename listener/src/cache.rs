//! Cache of results, in this process.
//!
//! Equal requests at once are made once: those that come meanwhile wait for the first one's result, also
//! if that is a failure. What is equal is decided by a digest of all that a result may depend on, so that
//! no part of it can pass for another.

use std::sync::Arc;
use std::time::Duration;

use crds::config::LookupCacheConfig;
use moka::Expiry;
use moka::future::Cache;
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};

use crate::delivery::outcome::Outcome;

/// Most bytes of results that are in use, and as much again of those kept for failures.
const MAX_BYTES: u64 = 32 << 20;

/// Bytes that an entry takes besides its result.
const ENTRY_BYTES: usize = 200;

/// Share of its time by which the time of a result may be shorter.
const JITTER: f64 = 0.1;

/// A result, as JSON; nothing is a null.
pub(crate) type CachedJson = Option<Arc<RawValue>>;

/// Digest of a lookup and its request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct CacheKey([u8; 32]);

/// Builder of a key.
pub(crate) struct CacheKeyBuilder(Sha256);

impl CacheKeyBuilder {
    /// Begins with nothing.
    pub(crate) fn empty() -> Self {
        Self(Sha256::new())
    }

    /// Begins with what a lookup is: the observer, a digest of its spec, and the lookup's name.
    pub(crate) fn new(observer: &str, spec: &[u8; 32], lookup: &str) -> Self {
        let own = Self::empty();
        own.part(observer.as_bytes())
            .part(spec)
            .part(lookup.as_bytes())
    }

    /// Adds a part, with its length before it.
    pub(crate) fn part(mut self, bytes: &[u8]) -> Self {
        self.0.update((bytes.len() as u64).to_be_bytes());
        self.0.update(bytes);
        self
    }

    /// Adds a part that may be missing, which differs from an empty one.
    pub(crate) fn optional(self, bytes: Option<&[u8]>) -> Self {
        match bytes {
            Some(bytes) => self.part(&[1]).part(bytes),
            None => self.part(&[0]),
        }
    }

    /// Returns the digest of the parts.
    pub(crate) fn digest(self) -> [u8; 32] {
        self.0.finalize().into()
    }

    pub(crate) fn finish(self) -> CacheKey {
        CacheKey(self.digest())
    }
}

/// How a result was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CacheUse {
    /// It was there.
    Hit,
    /// The lookup was made.
    Miss,
    /// An equal lookup was under way.
    Joined,
    /// The lookup failed, and a result from before was used.
    Stale,
}

impl CacheUse {
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Hit => "hit",
            Self::Miss => "miss",
            Self::Joined => "joined",
            Self::Stale => "stale",
        }
    }
}

#[derive(Clone, Debug)]
struct Entry {
    result: CachedJson,
    lives: Duration,
}

/// Cache of a process, shared by all lookups. Bounded in bytes; what was used least goes first.
#[derive(Clone, Debug)]
pub(crate) struct LookupCache {
    fresh: Cache<CacheKey, Entry>,
    /// Results that may be used where a lookup fails.
    stale: Cache<CacheKey, Entry>,
}

impl Default for LookupCache {
    fn default() -> Self {
        let cache = || {
            Cache::builder()
                .max_capacity(MAX_BYTES)
                .weigher(|_, entry: &Entry| {
                    let result = entry.result.as_deref().map_or(0, |json| json.get().len());
                    u32::try_from(result + ENTRY_BYTES).unwrap_or(u32::MAX)
                })
                .expire_after(Lifetime)
                .build()
        };
        Self {
            fresh: cache(),
            stale: cache(),
        }
    }
}

/// Each entry has its own time.
struct Lifetime;

impl Expiry<CacheKey, Entry> for Lifetime {
    fn expire_after_create(
        &self,
        _: &CacheKey,
        entry: &Entry,
        _: std::time::Instant,
    ) -> Option<Duration> {
        Some(entry.lives)
    }

    fn expire_after_update(
        &self,
        _: &CacheKey,
        entry: &Entry,
        _: std::time::Instant,
        _: Option<Duration>,
    ) -> Option<Duration> {
        Some(entry.lives)
    }
}

impl LookupCache {
    /// Returns the result of a lookup from the cache, or makes it. `random` is below 1, and shortens the
    /// time of the result.
    pub(crate) async fn get(
        &self,
        key: CacheKey,
        config: &LookupCacheConfig,
        random: f64,
        fetch: impl Future<Output = Result<CachedJson, Outcome>>,
    ) -> (Result<CachedJson, Outcome>, CacheUse) {
        if let Some(found) = self.fresh.get(&key).await {
            return (Ok(found.result), CacheUse::Hit);
        }
        let make = async {
            let result = fetch.await?;
            let (lives, kept) = times(config, result.is_none(), random);
            if !kept.is_zero() {
                let entry = Entry {
                    result: result.clone(),
                    lives: kept,
                };
                self.stale.insert(key, entry).await;
            }
            Ok(Entry { result, lives })
        };
        let made = self.fresh.entry(key).or_try_insert_with(make).await;
        match made {
            Ok(made) => {
                let how = if made.is_fresh() {
                    CacheUse::Miss
                } else {
                    CacheUse::Joined
                };
                (Ok(made.into_value().result), how)
            }
            Err(outcome) => match self.stale.get(&key).await {
                Some(kept) => (Ok(kept.result), CacheUse::Stale),
                None => (Err(Outcome::clone(&outcome)), CacheUse::Miss),
            },
        }
    }
}

/// Returns how long a result is used, and how long it is kept for failures, both from now.
fn times(config: &LookupCacheConfig, is_null: bool, random: f64) -> (Duration, Duration) {
    let ttl = if is_null {
        config.negative_ttl
    } else {
        config.ttl
    };
    let lives = ttl.mul_f64(1.0 - JITTER * random.clamp(0.0, 1.0));
    if config.stale_if_error.is_zero() || is_null {
        return (lives, Duration::ZERO);
    }
    (lives, lives + config.stale_if_error)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]

    use std::sync::atomic::{AtomicUsize, Ordering};

    use futures::future::join_all;
    use tokio::sync::Notify;

    use super::*;
    use crate::delivery::failure::{Failure, FailureKind};

    const MINUTE: LookupCacheConfig = LookupCacheConfig {
        ttl: Duration::from_mins(1),
        negative_ttl: Duration::ZERO,
        stale_if_error: Duration::ZERO,
    };

    fn key(part: &str) -> CacheKey {
        CacheKeyBuilder::empty().part(part.as_bytes()).finish()
    }

    fn json(text: &str) -> CachedJson {
        Some(Arc::from(RawValue::from_string(text.to_owned()).unwrap()))
    }

    fn failed() -> Outcome {
        Outcome::Rejected(Failure::of(FailureKind::Status, "no"))
    }

    fn text(result: Result<CachedJson, Outcome>) -> String {
        match result {
            Ok(Some(json)) => json.get().to_owned(),
            Ok(None) => "null".to_owned(),
            Err(_) => "failed".to_owned(),
        }
    }

    #[tokio::test]
    async fn equal_requests_at_once_are_made_once() {
        let (cache, made, go) = (LookupCache::default(), AtomicUsize::new(0), Notify::new());
        let get = |n: usize| {
            let (cache, made, go) = (&cache, &made, &go);
            async move {
                let fetch = async {
                    made.fetch_add(1, Ordering::Relaxed);
                    go.notified().await;
                    if n % 2 == 0 {
                        Ok(json("1"))
                    } else {
                        Err(failed())
                    }
                };
                cache.get(key("a"), &MINUTE, 0.5, fetch).await
            }
        };
        let all = join_all((0..1000).map(get));
        let (results, ()) = tokio::join!(all, async {
            tokio::task::yield_now().await;
            go.notify_one();
        });
        assert_eq!(made.load(Ordering::Relaxed), 1);
        let joined = results.iter().filter(|(_, how)| *how == CacheUse::Joined);
        assert_eq!(joined.count(), 999);
        assert!(results.into_iter().all(|(result, _)| text(result) == "1"));
    }

    #[tokio::test]
    async fn failure_is_shared_and_not_kept() {
        let cache = LookupCache::default();
        let (result, how) = cache
            .get(key("a"), &MINUTE, 0.0, async { Err(failed()) })
            .await;
        assert_eq!((text(result), how), ("failed".to_owned(), CacheUse::Miss));
        let (result, how) = cache
            .get(key("a"), &MINUTE, 0.0, async { Ok(json("2")) })
            .await;
        assert_eq!((text(result), how), ("2".to_owned(), CacheUse::Miss));
        let (result, how) = cache
            .get(key("a"), &MINUTE, 0.0, async { Err(failed()) })
            .await;
        assert_eq!((text(result), how), ("2".to_owned(), CacheUse::Hit));
        let (result, how) = cache.get(key("b"), &MINUTE, 0.0, async { Ok(None) }).await;
        assert_eq!((text(result), how), ("null".to_owned(), CacheUse::Miss));
        let (result, how) = cache
            .get(key("b"), &MINUTE, 0.0, async { Ok(json("3")) })
            .await;
        assert_eq!(
            (text(result), how),
            ("3".to_owned(), CacheUse::Miss),
            "a null was not to be kept"
        );
    }

    #[tokio::test]
    async fn stale_result_is_used_only_where_the_lookup_fails() {
        let cache = LookupCache::default();
        let config = LookupCacheConfig {
            ttl: Duration::ZERO,
            stale_if_error: Duration::from_mins(1),
            ..MINUTE
        };
        let (result, _) = cache
            .get(key("a"), &config, 0.0, async { Ok(json("1")) })
            .await;
        assert_eq!(text(result), "1");
        let (result, how) = cache
            .get(key("a"), &config, 0.0, async { Err(failed()) })
            .await;
        assert_eq!((text(result), how), ("1".to_owned(), CacheUse::Stale));
        let (result, how) = cache
            .get(key("a"), &config, 0.0, async { Ok(json("2")) })
            .await;
        assert_eq!((text(result), how), ("2".to_owned(), CacheUse::Miss));
    }

    #[test]
    fn times_are_shortened_by_a_tenth_at_most() {
        let config = LookupCacheConfig {
            ttl: Duration::from_secs(100),
            negative_ttl: Duration::from_secs(10),
            stale_if_error: Duration::from_secs(50),
        };
        let seconds = |is_null, random| {
            let (lives, kept) = times(&config, is_null, random);
            (lives.as_secs(), kept.as_secs())
        };
        assert_eq!(seconds(false, 0.0), (100, 150));
        assert_eq!(seconds(false, 1.0), (90, 140));
        assert_eq!(seconds(true, 0.0), (10, 0));
    }

    #[test]
    fn parts_of_a_key_cannot_pass_for_others() {
        let of = |parts: &[Option<&str>]| {
            let parts = parts.iter().map(|part| part.map(str::as_bytes));
            parts
                .fold(CacheKeyBuilder::empty(), CacheKeyBuilder::optional)
                .finish()
        };
        let keys = [
            of(&[Some("ab"), Some("c")]),
            of(&[Some("a"), Some("bc")]),
            of(&[Some("abc")]),
            of(&[Some("abc"), None]),
            of(&[Some("abc"), Some("")]),
            of(&[None, Some("abc")]),
        ];
        for (n, key) in keys.iter().enumerate() {
            assert!(keys[..n].iter().all(|other| other != key), "{n}");
        }
    }
}
