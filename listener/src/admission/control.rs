//! What every request passes on its way out: how much its host may be sent at once, rates, and the
//! breaker. A request counts once, whether it is for one delivery or for a batch of them.

use std::time::Duration;

use crds::config::RateLimit;
use tokio::time::Instant;

use super::action_runtime::ActionRuntime;
use super::endpoint_gate::{EndpointGate, EndpointPermit, MIN_WAIT};
use super::host_limits::{HostPermit, LimitedHost};
use super::redis_limiter::RedisPermit;
use crate::delivery::Delivery;
use crate::delivery::outcome::Outcome;
use crate::egress::redaction::Redactor;

/// How long beyond its timeout a request counts as under way of which nothing is heard: it may wait
/// for its answer's end.
const LEASE_MARGIN: Duration = Duration::from_secs(5);

/// The way out of one action.
pub(crate) struct AdmissionControl {
    pub(crate) gate: EndpointGate,
    pub(crate) rate_limit: Option<RateLimit>,
    /// Of one request.
    pub(crate) timeout: Duration,
    pub(crate) runtime: ActionRuntime,
    /// Takes the action's secrets out of what is said of an attempt.
    pub(crate) redactor: Redactor,
}

/// A request that was admitted. Dropped, it was cut off.
struct AdmissionPermit {
    permit: EndpointPermit,
    redis_permit: Option<RedisPermit>,
    _host_permit: HostPermit,
}

impl AdmissionControl {
    /// Admits a request for `delivery`, or for it with others of its action; or says how long to wait.
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

    /// The same, once its host has room for it.
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

    /// Waits for its turn at a host with limits.
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

    /// The limits that all processes keep together which a request counts to.
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
    /// Takes in what came of the request.
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
