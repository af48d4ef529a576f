//! What all actions of a process share.

use crds::config::{Egress, ListenerConfig, OwnDatabase, Redacted};
use crds::v1alpha1::DEFAULT_MAX_CONCURRENCY;
use reqwest::Client;

use crate::admission::endpoint_gate::EndpointRegistry;
use crate::admission::redis_limiter::RedisLimiter;
use crate::egress::http_client;
use crate::egress::policy::EgressPolicy;

/// The connections, and the rule where they may lead.
#[derive(Clone, Debug)]
pub struct ActionRuntime {
    /// Judges every address before it is dialled.
    pub(crate) egress: EgressPolicy,
    /// The client of webhooks.
    pub(crate) http: Client,
    /// What is known of receivers.
    pub(crate) endpoints: EndpointRegistry,
    /// The listener's database, where actions may run statements in it.
    pub(crate) own_database: Option<OwnDatabase>,
    /// Limits that all processes keep together, where the listener has a Redis.
    pub(crate) redis_limiter: Option<RedisLimiter>,
    /// Most requests of one action under way at once that does not say so itself.
    pub(crate) max_concurrency: u32,
}

/// The HTTP client cannot be set up.
#[derive(Debug, thiserror::Error)]
#[error("the HTTP client cannot be set up: are the system's root certificates installed?")]
pub struct ActionRuntimeError(#[from] reqwest::Error);

impl ActionRuntime {
    /// Sets up what is shared; opens no connection. What is known of receivers outlives it in
    /// `endpoints`.
    pub fn new(egress: &Egress, endpoints: &EndpointRegistry) -> Result<Self, ActionRuntimeError> {
        let policy = EgressPolicy::new(egress);
        Ok(Self {
            http: http_client::client(&policy)?,
            egress: policy,
            endpoints: endpoints.clone(),
            own_database: egress.own_database.clone(),
            redis_limiter: None,
            max_concurrency: DEFAULT_MAX_CONCURRENCY,
        })
    }

    /// The same with limits that all processes keep together.
    #[must_use]
    pub fn with_redis_limiter(self, redis_limiter: Option<RedisLimiter>) -> Self {
        Self {
            redis_limiter,
            ..self
        }
    }

    /// The same with another bound on how many requests of one action are under way at once.
    #[must_use]
    pub fn with_max_concurrency(self, max_concurrency: u32) -> Self {
        Self {
            max_concurrency,
            ..self
        }
    }
}

/// What connections rest on: where they may go, and the Redis of a listener with its identity there.
type CacheKey = (Egress, Option<(Redacted, String)>);

/// Sets up what is shared for one state of a listener after the other, and keeps connections open while
/// they may go to the same places.
#[derive(Debug, Default)]
pub struct ActionRuntimeCache {
    endpoints: EndpointRegistry,
    last: Option<(CacheKey, ActionRuntime)>,
}

impl ActionRuntimeCache {
    /// What the actions of this listener share.
    pub fn of(&mut self, listener: &ListenerConfig) -> Result<ActionRuntime, ActionRuntimeError> {
        let identity = listener.identity();
        let redis = listener.queue.redis.clone();
        let by = (listener.egress.clone(), redis.map(|url| (url, identity)));
        let most = listener.max_concurrency;
        if let Some((_, runtime)) = self.last.as_ref().filter(|(known, _)| *known == by) {
            return Ok(runtime.clone().with_max_concurrency(most));
        }
        let redis = by.1.as_ref();
        let redis_limiter = redis.and_then(|(url, identity)| RedisLimiter::new(url, identity));
        let runtime = ActionRuntime::new(&by.0, &self.endpoints)?.with_redis_limiter(redis_limiter);
        self.last = Some((by, runtime.clone()));
        Ok(runtime.with_max_concurrency(most))
    }
}
