//! Admission control of requests: concurrency limits of hosts, rate limits, and circuit breakers. A
//! request counts once, whether it is for one delivery or for a batch.

use std::time::Duration;

use crds::config::RateLimit;
use tokio::time::Instant;

use super::action_runtime::ActionRuntime;
use super::endpoint_gate::{EndpointGate, EndpointPermit, MIN_WAIT};
use super::host_limits::{HostPermit, LimitedHost, without_port};
use super::redis_limiter::RedisPermit;
use crate::delivery::Delivery;
use crate::delivery::outcome::Outcome;
use crate::egress::redaction::{Redactor, Secrets};

/// How much longer than its timeout a request holds its permit in Redis if the process dies: it may
/// still be reading the response.
const LEASE_MARGIN: Duration = Duration::from_secs(5);

/// Admission control of one action.
pub(crate) struct AdmissionControl {
    pub(crate) gate: EndpointGate,
    pub(crate) rate_limit: Option<RateLimit>,
    /// Timeout of one request.
    pub(crate) timeout: Duration,
    pub(crate) runtime: ActionRuntime,
    /// Redacts the action's secrets in outcomes.
    pub(crate) redactor: Redactor,
}

/// Permit of an admitted request. Dropped before it is completed, it counts as cancelled.
struct AdmissionPermit {
    permit: EndpointPermit,
    redis_permit: Option<RedisPermit>,
    _host_permit: HostPermit,
}

impl AdmissionControl {
    /// Creates the control of requests to an endpoint (its key and its host), with a rate limit and the
    /// longest wait that the endpoint may ask for.
    pub(crate) fn new(
        runtime: &ActionRuntime,
        (endpoint, rate_limit, max_retry_after): (
            Option<(&str, &str)>,
            Option<RateLimit>,
            Duration,
        ),
        timeout: Duration,
        secrets: Secrets,
    ) -> Self {
        let host_limit =
            endpoint.and_then(|(_, host)| runtime.egress.host_limit(without_port(host)));
        let endpoints = &runtime.endpoints;
        Self {
            gate: endpoints.gate(endpoint, rate_limit, host_limit, max_retry_after),
            rate_limit,
            runtime: runtime.clone(),
            timeout,
            redactor: Redactor::of(secrets),
        }
    }

    /// Admits a request for `delivery`, alone or in a batch, or returns how long to wait.
    async fn admit(&self, delivery: &Delivery) -> Result<AdmissionPermit, Duration> {
        let (host_permit, redis_permit) = match self.gate.host() {
            Some(host) => Box::pin(self.admit_to_host(host)).await?,
            None => (None, None),
        };
        match self.admit_attempt(delivery).await {
            Ok(permit) => Ok(AdmissionPermit {
                permit,
                redis_permit,
                _host_permit: host_permit,
            }),
            Err(wait) => {
                release(redis_permit).await;
                Err(wait)
            }
        }
    }

    /// Admits it by rate limits and circuit breaker.
    async fn admit_attempt(&self, delivery: &Delivery) -> Result<EndpointPermit, Duration> {
        let permit = self.gate.admit(delivery.attempt <= 1, Instant::now())?;
        if let Some(limiter) = &self.runtime.redis_limiter {
            let limits = self.limits(delivery);
            if !limits.is_empty() {
                Box::pin(limiter.acquire(&limits)).await?;
            }
        }
        Ok(permit)
    }

    /// Waits for permits of a host with a concurrency limit.
    async fn admit_to_host(
        &self,
        host: &LimitedHost,
    ) -> Result<(HostPermit, Option<RedisPermit>), Duration> {
        let host_permit = host.acquire(self.timeout).await.ok_or(MIN_WAIT)?;
        let Some((limiter, most)) = self
            .runtime
            .redis_limiter
            .as_ref()
            .zip(host.limit.max_concurrency)
        else {
            return Ok((host_permit, None));
        };
        let (lease, max_wait) = (self.timeout + LEASE_MARGIN, self.timeout);
        let redis_permit = limiter
            .acquire_permit(&host.name, most, lease, max_wait)
            .await;
        Ok((host_permit, Some(redis_permit.ok_or(MIN_WAIT)?)))
    }

    /// Returns the shared rate limits that a request counts towards.
    fn limits(&self, delivery: &Delivery) -> Vec<(String, RateLimit)> {
        let own = self.rate_limit.map(|limit| {
            let name = format!("{}/{}", delivery.observer, delivery.action);
            (name, limit)
        });
        let host = self.gate.host().and_then(|host| {
            // Unlike any action's name, which has two slashes.
            let name = format!("host/{}", host.name);
            host.limit.rate_limit.map(|limit| (name, limit))
        });
        own.into_iter().chain(host).collect()
    }
}

impl AdmissionControl {
    /// Runs a request for `delivery` once it is admitted.
    pub(crate) async fn run(
        &self,
        delivery: &Delivery,
        request: impl Future<Output = Outcome>,
    ) -> Outcome {
        let permit = match self.admit(delivery).await {
            Ok(permit) => permit,
            Err(wait) => return Outcome::Deferred(wait),
        };
        let outcome = self.redactor.redact_outcome(request.await);
        permit.complete(&outcome).await;
        outcome
    }

    /// Runs a request for `delivery` and others, of `size` in all, once it is admitted. Its first
    /// outcome stands for all of them.
    pub(crate) async fn run_batch(
        &self,
        delivery: &Delivery,
        size: usize,
        request: impl Future<Output = Vec<Outcome>>,
    ) -> Vec<Outcome> {
        let permit = match self.admit(delivery).await {
            Ok(permit) => permit,
            Err(wait) => return vec![Outcome::Deferred(wait); size],
        };
        let outcomes = request.await.into_iter();
        let outcomes: Vec<Outcome> = outcomes
            .map(|outcome| self.redactor.redact_outcome(outcome))
            .collect();
        if let Some(first) = outcomes.first() {
            permit.complete(first).await;
        }
        outcomes
    }
}

impl AdmissionPermit {
    /// Records the outcome and releases the permits.
    async fn complete(self, outcome: &Outcome) {
        self.permit
            .record_outcome(outcome, Instant::now(), rand::random());
        release(self.redis_permit).await;
    }
}

/// Releases the permit in Redis, if there is one.
async fn release(permit: Option<RedisPermit>) {
    if let Some(permit) = permit {
        Box::pin(permit.release()).await;
    }
}
