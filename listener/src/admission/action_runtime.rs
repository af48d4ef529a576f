//! Runtime of actions: what all actions of a process share.

use std::sync::Arc;
use std::time::Duration;

use crds::config::{Egress, ListenerConfig, OwnDatabase, RedisServerConfig};
use crds::v1alpha1::DEFAULT_MAX_CONCURRENCY;
use reqwest::Client;

use crate::admission::endpoint_gate::EndpointRegistry;
use crate::admission::redis_limiter::RedisLimiter;
use crate::cache::ResultCache;
use crate::cache::metrics::CacheMetrics;
use crate::egress::http_client;
use crate::egress::policy::EgressPolicy;
use crate::telemetry::lookup_metrics::LookupMetrics;

/// Time of a result where neither its cache nor the listener says.
const DEFAULT_CACHE_TTL: Duration = Duration::from_mins(1);

/// Shared clients, egress policy, endpoints and limits.
#[derive(Clone, Debug)]
pub struct ActionRuntime {
    /// Which addresses may be dialled.
    pub(crate) egress: EgressPolicy,
    /// HTTP client.
    pub(crate) http: Client,
    /// Endpoints and their circuit breakers.
    pub(crate) endpoints: EndpointRegistry,
    /// The listener's own database, where actions may run statements in it.
    pub(crate) own_database: Option<OwnDatabase>,
    /// Limits shared by all processes, where the listener has a Redis.
    pub(crate) redis_limiter: Option<RedisLimiter>,
    /// Most requests in flight of an action without a limit of its own.
    pub(crate) max_concurrency: u32,
    /// Metrics of lookups.
    pub(crate) lookups: LookupMetrics,
    /// Results of lookups and actions.
    pub(crate) results: ResultCache,
    /// How long a result is used that has no time of its own.
    pub(crate) cache_ttl: Duration,
    /// The listener's identity.
    pub(crate) listener: Arc<str>,
    /// Changes whenever any setting here does; comparable only within one cache.
    pub(crate) revision: u64,
}

/// Why there is no runtime.
#[derive(Debug, thiserror::Error)]
pub enum ActionRuntimeError {
    /// The HTTP client cannot be set up.
    #[error("the HTTP client cannot be set up: are the system's root certificates installed?")]
    Http(#[from] reqwest::Error),
    /// Metrics cannot be set up.
    #[error("metrics cannot be set up")]
    Metrics(#[from] prometheus::Error),
}

impl ActionRuntime {
    /// Creates a runtime; opens no connection. Circuit breakers outlive it in `endpoints`.
    pub fn new(egress: &Egress, endpoints: &EndpointRegistry) -> Result<Self, ActionRuntimeError> {
        let policy = EgressPolicy::new(egress);
        Ok(Self {
            http: http_client::client(&policy)?,
            egress: policy,
            endpoints: endpoints.clone(),
            own_database: egress.own_database.clone(),
            redis_limiter: None,
            max_concurrency: DEFAULT_MAX_CONCURRENCY,
            lookups: LookupMetrics::new()?,
            results: ResultCache::new(CacheMetrics::new()?),
            cache_ttl: DEFAULT_CACHE_TTL,
            listener: Arc::from(""),
            revision: 0,
        })
    }

    /// Returns it with limits shared by all processes.
    #[must_use]
    pub fn with_redis_limiter(self, redis_limiter: Option<RedisLimiter>) -> Self {
        Self {
            redis_limiter,
            ..self
        }
    }

    /// Returns it for the listener of this identity.
    #[must_use]
    pub fn with_listener(self, identity: &str) -> Self {
        Self {
            listener: Arc::from(identity),
            ..self
        }
    }

    /// Returns it with another default for the most requests in flight of one action.
    #[must_use]
    pub fn with_max_concurrency(self, max_concurrency: u32) -> Self {
        Self {
            max_concurrency,
            ..self
        }
    }
}

/// What a runtime depends on: egress rules, and the Redis of a listener with its identity there.
type CacheKey = (Egress, Option<(Box<RedisServerConfig>, String)>);

/// Cache of the runtime across reloads of a listener: connections stay open while the egress rules stay
/// the same.
#[derive(Clone, Debug, Default)]
pub struct ActionRuntimeCache {
    endpoints: EndpointRegistry,
    last: Option<(CacheKey, ActionRuntime)>,
}

impl ActionRuntimeCache {
    /// Returns the runtime for the actions of this listener.
    pub fn of(&mut self, listener: &ListenerConfig) -> Result<ActionRuntime, ActionRuntimeError> {
        let identity = listener.identity();
        let redis = listener.queue.redis.clone();
        let by = (
            listener.egress.clone(),
            redis.map(|server| (server, identity)),
        );
        let last = self.last.as_ref();
        let (base, known) = match last.filter(|(known, _)| *known == by) {
            Some((_, runtime)) => (runtime.clone(), true),
            None => (self.other(&by)?, false),
        };
        let revision = base.revision;
        let mut runtime = ActionRuntime {
            cache_ttl: listener.cache_ttl,
            ..base
                .with_listener(&listener.identity())
                .with_max_concurrency(listener.max_concurrency)
        };
        let settings =
            |of: &ActionRuntime| (Arc::clone(&of.listener), of.max_concurrency, of.cache_ttl);
        let same = known && last.is_some_and(|(_, last)| settings(last) == settings(&runtime));
        runtime.revision = if same { revision } else { revision + 1 };
        self.last = Some((by, runtime.clone()));
        Ok(runtime)
    }

    /// Returns a runtime with other egress rules or another Redis, and with the metrics and results of the last one.
    fn other(&self, by: &CacheKey) -> Result<ActionRuntime, ActionRuntimeError> {
        let redis = by.1.as_ref();
        let redis_limiter =
            redis.and_then(|(server, identity)| RedisLimiter::new(server, identity));
        let mut runtime =
            ActionRuntime::new(&by.0, &self.endpoints)?.with_redis_limiter(redis_limiter);
        if let Some((_, last)) = &self.last {
            runtime.lookups = last.lookups.clone();
            runtime.results = last.results.clone();
            runtime.revision = last.revision;
        }
        runtime.results = runtime
            .results
            .with_redis(redis.map(|(server, name)| (&**server, &**name)));
        Ok(runtime)
    }
}
