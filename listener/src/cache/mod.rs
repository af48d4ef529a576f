//! Cache of the results of lookups and actions: in this process, then in the listener's Redis, then the real
//! request.
//!
//! Equal requests at once are made once in a process, and once in all of them where they share a Redis. A
//! result is used only where it holds: [`invalidation`] says how that is known.

pub mod commands;
mod flights;
pub(crate) mod follower;
pub(crate) mod invalidation;
pub(crate) mod key;
mod memory;
pub(crate) mod metrics;
mod redis;
mod stored;
mod tier;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crds::config::RedisServerConfig;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use self::flights::Flights;
use self::invalidation::{Invalidations, Progress, Tag};
use self::key::CacheKey;
use self::memory::MemoryTier;
use self::metrics::{CacheMetrics, Served};
use self::redis::{Claim, Claimed, RedisTier, Turn};
use self::stored::StoredResult;
pub(crate) use self::stored::{CachedJson, MAX_RESULT_BYTES};
use self::tier::CacheTier;
use crate::delivery::outcome::Outcome;
use crate::sync::lock;

/// Share of its time by which the time of a result may be shorter.
const JITTER: f64 = 0.1;

/// Part of its time in which a result is looked up again before it expires, by the first that uses it then.
const REFRESH_PART: u32 = 10;

/// Wait beyond a request's timeout until another process's claim to make it ends.
const CLAIM_MARGIN: Duration = Duration::from_secs(1);

/// Cache of a process, shared by all its lookups and actions.
#[derive(Clone, Debug)]
pub(crate) struct ResultCache {
    memory: MemoryTier,
    redis: Option<RedisTier>,
    flights: Flights<Landed>,
    invalidations: Arc<Mutex<Invalidations>>,
    metrics: CacheMetrics,
}

/// What the cache of a process holds, and what it has served since the process started.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(deny_unknown_fields)]
pub struct CacheStats {
    /// Results in the process.
    pub entries: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Requests by how they were served: `memory`, `redis`, `joined`, `miss`, `refreshed`, `stale`,
    /// `bypassed`.
    pub served: BTreeMap<String, u64>,
}

/// The end of a request that others may have joined.
#[derive(Clone, Debug)]
struct Landed {
    result: Result<CachedJson, Outcome>,
    progress: Progress,
}

/// A request whose result may be cached.
#[derive(Debug)]
pub(crate) struct CacheRequest<'a> {
    pub(crate) key: CacheKey,
    pub(crate) observer: &'a str,
    /// The lookup or action.
    pub(crate) name: &'a str,
    /// What its result depends on.
    pub(crate) tags: Vec<Tag>,
    pub(crate) times: ResultTimes,
    /// Timeout of the real request.
    pub(crate) timeout: Duration,
    /// Below 1; shortens the time of the result.
    pub(crate) random: f64,
}

/// For how long results are used.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ResultTimes {
    /// A result.
    pub(crate) ttl: Duration,
    /// A null.
    pub(crate) negative_ttl: Duration,
    /// Beyond that where the request fails.
    pub(crate) stale_if_error: Duration,
}

/// What the follower of changes needs to know of the observers.
#[derive(Debug, Default)]
pub(crate) struct CacheNeeds {
    /// Whether there is a lookup or an action with a cache.
    pub(crate) has_cache: bool,
    /// Entities whose changes end results.
    pub(crate) entities: BTreeSet<Arc<str>>,
}

impl ResultCache {
    /// Creates an empty cache in this process alone.
    pub(crate) fn new(metrics: CacheMetrics) -> Self {
        Self {
            memory: MemoryTier::new(metrics.evictions.clone()),
            redis: None,
            flights: Flights::default(),
            invalidations: Arc::default(),
            metrics,
        }
    }

    /// Returns it with the results in a listener's Redis, or without any.
    pub(crate) fn with_redis(self, redis: Option<(&RedisServerConfig, &str)>) -> Self {
        let metrics = self.metrics.clone();
        let redis = redis.and_then(|(server, listener)| RedisTier::new(server, listener, metrics));
        Self { redis, ..self }
    }

    /// Returns it with results in Redis, which waits for an answer for as long as a busy machine may take.
    #[cfg(test)]
    fn with_patient_redis(self, server: &RedisServerConfig, listener: &str) -> Self {
        let redis = RedisTier::patient(server, listener, self.metrics.clone());
        Self { redis, ..self }
    }

    /// Returns its metrics, up to date.
    pub(crate) fn metrics(&self) -> &CacheMetrics {
        let (entries, bytes) = self.memory.size();
        let gauge = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
        self.metrics.entries.set(gauge(entries));
        self.metrics.bytes.set(gauge(bytes));
        &self.metrics
    }

    /// Returns what it holds and has served.
    pub(crate) fn stats(&self) -> CacheStats {
        let (entries, bytes) = self.memory.size();
        CacheStats {
            entries,
            bytes,
            served: self.metrics.served(),
        }
    }

    pub(crate) fn record_invalidations(&self, kind: &str, count: usize) {
        self.metrics.record_invalidations(kind, count);
    }

    /// Changes what is known of changes.
    pub(crate) fn update<T>(&self, change: impl FnOnce(&mut Invalidations) -> T) -> T {
        change(&mut lock(&self.invalidations))
    }

    /// Returns the result of a request from the cache, or makes it.
    pub(crate) async fn get(
        &self,
        request: CacheRequest<'_>,
        fetch: impl Future<Output = Result<CachedJson, Outcome>>,
    ) -> (Result<CachedJson, Outcome>, Served) {
        let begun = Instant::now();
        let (result, served) = self.serve(&request, fetch).await;
        let metrics = &self.metrics;
        metrics.record(request.observer, request.name, served, begun.elapsed());
        (result, served)
    }

    async fn serve(
        &self,
        request: &CacheRequest<'_>,
        fetch: impl Future<Output = Result<CachedJson, Outcome>>,
    ) -> (Result<CachedJson, Outcome>, Served) {
        let required = {
            let invalidations = lock(&self.invalidations);
            invalidations.required(request.observer, request.name, &request.tags)
        };
        let Some((life, required)) = required else {
            return (fetch.await, Served::Bypassed);
        };
        let key = request.key.within(&life);
        let holds = |found: &StoredResult| found.progress >= required;
        let found = find(&self.memory, &key, holds).await;
        if let Some(found) = &found
            && !found.fresh.is_zero()
            && (!request.is_due(found) || self.flights.is_under_way(&key))
        {
            return (Ok(found.result.clone()), Served::Memory);
        }
        let flight = self.flights.join(key);
        let mut slot = flight.slot.lock().await;
        if let Some(landed) = slot.as_ref().filter(|landed| landed.progress >= required) {
            return (landed.result.clone(), Served::Joined);
        }
        let (landed, served) = self.fly((request, &key), (found, &holds), fetch).await;
        *slot = Some(landed.clone());
        flight.land();
        (landed.result, served)
    }

    /// Finds the result in Redis, or makes the request; the only one of this process that does.
    async fn fly(
        &self,
        (request, key): (&CacheRequest<'_>, &CacheKey),
        (mine, holds): (Option<StoredResult>, &impl Fn(&StoredResult) -> bool),
        fetch: impl Future<Output = Result<CachedJson, Outcome>>,
    ) -> (Landed, Served) {
        // One that has landed since may have left its result.
        let mine = match mine {
            Some(mine) => Some(mine),
            None => find(&self.memory, key, holds).await,
        };
        let is_fresh = |found: &StoredResult| !found.fresh.is_zero() && !request.is_due(found);
        if let Some(mine) = mine.as_ref().filter(|mine| is_fresh(mine)) {
            return (mine.landed(), Served::Memory);
        }
        let (shared, claim) = match &self.redis {
            Some(redis) => {
                self.ask_redis(redis, (request, key), mine.as_ref(), holds)
                    .await
            }
            None => (None, Ok(None)),
        };
        let kept = shared.or(mine);
        let is_refresh = kept.as_ref().is_some_and(|kept| !kept.fresh.is_zero());
        let claim = match (claim, &kept) {
            (Ok(claim), Some(kept)) if is_fresh(kept) => {
                self.release(claim).await;
                return (kept.landed(), Served::Redis);
            }
            // Another process refreshes it.
            (Err(Taken), Some(kept)) => return (kept.landed(), Served::Redis),
            (Err(Taken), None) => None,
            (Ok(claim), _) => claim,
        };
        let progress = lock(&self.invalidations).progress();
        let fetched = fetch.await;
        let (landed, served) = match (fetched, kept) {
            (Ok(result), _) => {
                let stored = request.stored(result, progress);
                self.store(key, &stored).await;
                let served = if is_refresh {
                    Served::Refreshed
                } else {
                    Served::Miss
                };
                (stored.landed(), served)
            }
            (Err(_), Some(kept)) => (kept.landed(), Served::Stale),
            (Err(outcome), None) => {
                let result = Err(outcome);
                (Landed { result, progress }, Served::Miss)
            }
        };
        self.release(claim).await;
        (landed, served)
    }

    /// Looks in Redis, and claims the request there where it has no fresh result.
    async fn ask_redis(
        &self,
        redis: &RedisTier,
        (request, key): (&CacheRequest<'_>, &CacheKey),
        mine: Option<&StoredResult>,
        holds: &impl Fn(&StoredResult) -> bool,
    ) -> (Option<StoredResult>, Result<Option<Claim>, Taken>) {
        let lasts = request.timeout + CLAIM_MARGIN;
        let found = find(redis, key, holds).await;
        let fresh = |found: &StoredResult| !found.fresh.is_zero();
        let best = found
            .as_ref()
            .filter(|found| fresh(found))
            .or(mine.filter(|mine| fresh(mine)));
        if let Some(best) = best {
            let best = best.clone();
            if let Some(found) = found.as_ref().filter(|found| fresh(found)) {
                self.memory.put(key, found).await;
            }
            if !request.is_due(&best) {
                return (Some(best), Ok(None));
            }
            // It serves while one process looks it up again.
            return match redis.claim(key, lasts).await {
                Claimed::Yes(claim) => (Some(best), Ok(Some(claim))),
                Claimed::No => (Some(best), Err(Taken)),
                Claimed::Unknown => (Some(best), Ok(None)),
            };
        }
        let usable = |found: &StoredResult| holds(found) && fresh(found);
        match redis.turn(key, lasts, usable).await {
            Turn::Found(theirs) => {
                self.memory.put(key, &theirs).await;
                (Some(theirs), Ok(None))
            }
            Turn::Own(claim) => (found, Ok(claim)),
        }
    }

    async fn store(&self, key: &CacheKey, stored: &StoredResult) {
        if stored.len() > MAX_RESULT_BYTES || (stored.fresh + stored.stale).is_zero() {
            return;
        }
        self.memory.put(key, stored).await;
        if let Some(redis) = &self.redis {
            redis.put(key, stored).await;
        }
    }

    async fn release(&self, claim: Option<Claim>) {
        if let (Some(redis), Some(claim)) = (&self.redis, claim) {
            redis.release(claim).await;
        }
    }
}

/// Returns the result that a tier stores, if it holds.
async fn find(
    tier: &impl CacheTier,
    key: &CacheKey,
    holds: impl Fn(&StoredResult) -> bool,
) -> Option<StoredResult> {
    tier.get(key).await.filter(holds)
}

/// Another process makes the request.
struct Taken;

impl CacheRequest<'_> {
    /// Returns whether a fresh result is near its end, so that it is looked up again.
    fn is_due(&self, found: &StoredResult) -> bool {
        let ttl = self.ttl(found.result.is_none());
        found.fresh < ttl / REFRESH_PART
    }

    const fn ttl(&self, is_null: bool) -> Duration {
        if is_null {
            self.times.negative_ttl
        } else {
            self.times.ttl
        }
    }

    /// Returns what is stored of a result.
    fn stored(&self, result: CachedJson, progress: Progress) -> StoredResult {
        let ttl = self.ttl(result.is_none());
        let fresh = ttl.mul_f64(1.0 - JITTER * self.random.clamp(0.0, 1.0));
        let stale = if result.is_none() {
            Duration::ZERO
        } else {
            self.times.stale_if_error
        };
        StoredResult {
            result,
            progress,
            fresh,
            stale,
        }
    }
}

impl StoredResult {
    fn landed(&self) -> Landed {
        Landed {
            result: Ok(self.result.clone()),
            progress: self.progress,
        }
    }
}

#[cfg(test)]
mod tests;
