//! Endpoint gates: admission of attempts by the rate limits of action and host, and by the circuit
//! breaker of the endpoint.
//!
//! What is not admitted uses up no attempt; it waits in the job queue, which claims no more of an
//! action's jobs than there is capacity for.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::time::Duration;

use chrono::{DateTime, Utc};
use crds::config::{HostLimit, RateLimit};
use server::limiter::Gcra;
use tokio::time::Instant;

use crate::sync::lock;

use super::host_limits::{HostLimits, LimitedHost, without_port};
use crate::circuit_breaker::{CircuitBreaker, CircuitState, Signal, Ticket, Transition};
use crate::delivery::failure::{Failure, FailureKind, Tells};
use crate::delivery::outcome::Outcome;

/// Shortest wait of an attempt that is not admitted.
pub(crate) const MIN_WAIT: Duration = Duration::from_millis(10);

/// Endpoint of actions, and its health.
#[derive(Debug)]
struct Endpoint {
    /// Host for people; holds no secret.
    host: String,
    health: Mutex<EndpointHealth>,
}

#[derive(Debug)]
struct EndpointHealth {
    breaker: CircuitBreaker,
    /// Failure that opened the circuit breaker.
    why: Option<String>,
    /// When it opened, the first time since it was closed.
    since: Option<DateTime<Utc>>,
}

/// Registry of the endpoints of a process, and of hosts that have limits. Actions with the same endpoint
/// share its circuit breaker.
#[derive(Clone, Debug, Default)]
pub struct EndpointRegistry {
    endpoints: Arc<Mutex<HashMap<String, Weak<Endpoint>>>>,
    hosts: Arc<Mutex<HostLimits>>,
}

impl EndpointRegistry {
    /// Returns the gate of one action: `endpoint` is a key that may hold a secret and a host for people,
    /// or nothing where it goes nowhere. `limit` is for all requests to that host.
    ///
    /// A `Retry-After` is honoured for up to `max_retry_after`.
    pub(crate) fn gate(
        &self,
        endpoint: Option<(&str, &str)>,
        rate: Option<RateLimit>,
        limit: Option<&HostLimit>,
        max_retry_after: Duration,
    ) -> EndpointGate {
        let limited = endpoint.zip(limit);
        EndpointGate {
            max_retry_after,
            endpoint: endpoint.map(|(key, host)| self.endpoint(key, host)),
            host: limited
                .map(|((_, host), limit)| lock(&self.hosts).host(without_port(host), limit)),
            bucket: rate.map(|limit| Arc::new(Mutex::new(Gcra::new(limit.attempts, limit.per)))),
        }
    }

    fn endpoint(&self, key: &str, host: &str) -> Arc<Endpoint> {
        let mut all = lock(&self.endpoints);
        if let Some(known) = all.get(key).and_then(Weak::upgrade) {
            return known;
        }
        // Drops those that no action uses.
        all.retain(|_, known| known.strong_count() > 0);
        let new = Arc::new(Endpoint {
            host: host.to_owned(),
            health: Mutex::new(EndpointHealth {
                breaker: CircuitBreaker::new(),
                why: None,
                since: None,
            }),
        });
        all.insert(key.to_owned(), Arc::downgrade(&new));
        new
    }
}

/// Gate of one action.
#[derive(Clone, Debug)]
pub(crate) struct EndpointGate {
    endpoint: Option<Arc<Endpoint>>,
    host: Option<Arc<LimitedHost>>,
    bucket: Option<Arc<Mutex<Gcra>>>,
    max_retry_after: Duration,
}

/// How many attempts of an action would be admitted now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capacity {
    /// Number of attempts.
    pub available: u32,
    /// Where that is zero, when it will not be.
    pub next_at: Instant,
}

/// Status of the endpoint of an action.
#[derive(Clone, Debug)]
pub struct EndpointStatus {
    /// State of its circuit breaker.
    pub circuit: CircuitState,
    /// When the circuit breaker opened, if it is not closed.
    pub since: Option<DateTime<Utc>>,
    /// How often it opened, in this process.
    pub opened: u64,
    /// Why it opened last; nothing if it never did.
    pub why: Option<String>,
}

/// Permit of an admitted attempt, whose outcome is to be recorded. Dropped, it counts as cancelled.
#[derive(Debug)]
pub(crate) struct EndpointPermit {
    endpoint: Option<(Arc<Endpoint>, Ticket)>,
    max_retry_after: Duration,
}

impl EndpointGate {
    /// Returns the host, where that has limits.
    pub(crate) const fn host(&self) -> Option<&Arc<LimitedHost>> {
        self.host.as_ref()
    }

    /// Returns the rate limits that an attempt needs a token of each.
    fn buckets(&self) -> impl Iterator<Item = &Mutex<Gcra>> {
        let of_host = self.host.as_ref().and_then(|host| host.bucket.as_ref());
        self.bucket.as_deref().into_iter().chain(of_host)
    }

    /// Admits an attempt, `fresh` if its delivery has not failed before, or returns how long to wait.
    pub(crate) fn admit(&self, fresh: bool, now: Instant) -> Result<EndpointPermit, Duration> {
        // Always locked in this order, the action's own and the host's.
        let mut buckets: Vec<MutexGuard<'_, Gcra>> = self.buckets().map(lock).collect();
        let wait = buckets.iter().filter_map(|bucket| bucket.delay(now)).max();
        if let Some(wait) = wait {
            return Err(wait.max(MIN_WAIT));
        }
        let admitted = self.endpoint.as_ref().map(|endpoint| {
            let ticket = lock(&endpoint.health).breaker.admit(fresh, now)?;
            Ok((Arc::clone(endpoint), ticket))
        });
        let endpoint = admitted
            .transpose()
            .map_err(|wait: Duration| wait.max(MIN_WAIT))?;
        for bucket in &mut buckets {
            bucket.acquire(now);
        }
        Ok(EndpointPermit {
            endpoint,
            max_retry_after: self.max_retry_after,
        })
    }

    /// Returns how many attempts would be admitted now; nothing where that is not bounded.
    pub(crate) fn capacity(&self, now: Instant) -> Option<Capacity> {
        let of_rates = self.buckets().map(|bucket| lock(bucket).peek(now));
        let endpoint = self.endpoint.as_ref();
        let of_breaker = endpoint.and_then(|endpoint| lock(&endpoint.health).breaker.capacity(now));
        let free = self.host.as_ref().and_then(|host| host.available());
        let of_host = free.map(|free| match free {
            0 => (0, now + MIN_WAIT),
            free => (free, now),
        });
        of_rates
            .chain(of_breaker)
            .chain(of_host)
            .map(|(available, next_at)| Capacity { available, next_at })
            .reduce(|one, other| Capacity {
                available: one.available.min(other.available),
                next_at: one.next_at.max(other.next_at),
            })
    }

    /// Closes the circuit breaker of the endpoint. Returns whether it was not closed.
    pub(crate) fn close(&self, now: Instant) -> bool {
        let Some(endpoint) = &self.endpoint else {
            return false;
        };
        let mut health = lock(&endpoint.health);
        health.since = None;
        health.breaker.close(now)
    }

    pub(crate) fn endpoint_status(&self, now: Instant) -> Option<EndpointStatus> {
        let endpoint = self.endpoint.as_ref()?;
        let health = lock(&endpoint.health);
        let circuit = health.breaker.state(now);
        Some(EndpointStatus {
            circuit,
            since: health.since.filter(|_| circuit != CircuitState::Closed),
            opened: health.breaker.opened(),
            why: health.why.clone(),
        })
    }
}

impl EndpointPermit {
    /// Records the outcome of the attempt. `random` is from 0 to 1.
    pub(crate) fn record_outcome(mut self, outcome: &Outcome, now: Instant, random: f64) {
        let Some((endpoint, ticket)) = self.endpoint.take() else {
            return;
        };
        let signal = signal_of(outcome, self.max_retry_after);
        let mut health = lock(&endpoint.health);
        let was_closed = health.breaker.state(now) == CircuitState::Closed;
        let change = health.breaker.record(ticket, signal, now, random);
        if matches!(change, Some(Transition::Opened(_))) && was_closed {
            health.since = Some(Utc::now());
        }
        let host = &*endpoint.host;
        match (change, outcome) {
            (Some(Transition::Opened(wait)), Outcome::Retry { failure, .. }) => {
                health.why = Some(failure.message.clone());
                tracing::warn!(
                    host,
                    error = failure.message,
                    "circuit breaker opened: the endpoint fails; deliveries to it wait and use up no attempts, \
                     the next probe is in {wait:.1?}"
                );
            }
            (Some(Transition::Recovering), _) => tracing::info!(
                host,
                "circuit breaker half-open: the endpoint answers again; waiting deliveries go out at a growing rate"
            ),
            _ => {}
        }
    }
}

impl Drop for EndpointPermit {
    fn drop(&mut self) {
        if let Some((endpoint, ticket)) = self.endpoint.take() {
            let mut health = lock(&endpoint.health);
            health
                .breaker
                .record(ticket, Signal::Ignored, Instant::now(), 0.0);
        }
    }
}

/// Returns what an outcome says of the endpoint.
fn signal_of(outcome: &Outcome, max_retry_after: Duration) -> Signal {
    match outcome {
        Outcome::Delivered => Signal::Success,
        Outcome::Retry {
            failure: Failure {
                status: Some(429), ..
            },
            after: Some(wait),
        } => Signal::RetryAfter((*wait).min(max_retry_after)),
        Outcome::Retry { failure, .. } => match failure.tells {
            Tells::Nothing => Signal::Ignored,
            Tells::There => Signal::Responded,
            Tells::Failed => Signal::Failure,
            Tells::Away => Signal::Unreachable,
        },
        // An endpoint that rejects is up, and says nothing of other deliveries.
        Outcome::Rejected(failure) => match failure.kind {
            FailureKind::Status | FailureKind::Redirect | FailureKind::Response => {
                Signal::Responded
            }
            _ => Signal::Ignored,
        },
        Outcome::Skipped | Outcome::Cached | Outcome::Deferred(_) => Signal::Ignored,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]

    use super::*;

    const LONG: Duration = Duration::from_hours(1);

    fn failed() -> Outcome {
        Outcome::Retry {
            failure: Failure::of(FailureKind::Connection, "no connection"),
            after: None,
        }
    }

    #[test]
    fn actions_with_one_endpoint_share_its_circuit_breaker() {
        let (registry, now) = (EndpointRegistry::default(), Instant::now());
        let one = registry.gate(Some(("http://a/x", "a")), None, None, LONG);
        let other = registry.gate(Some(("http://a/x", "a")), None, None, LONG);
        let elsewhere = registry.gate(Some(("http://a/y", "a")), None, None, LONG);
        for _ in 0..20 {
            one.admit(true, now)
                .unwrap()
                .record_outcome(&failed(), now, 1.0);
        }
        assert!(other.admit(true, now).is_err());
        assert_eq!(other.capacity(now).unwrap().available, 0);
        assert!(elsewhere.admit(true, now).is_ok());
        let standing = other.endpoint_status(now).unwrap();
        assert_eq!(standing.circuit, CircuitState::Open);
        assert_eq!(standing.why.unwrap(), "no connection");
    }

    #[test]
    fn opened_at_stays_until_closed() {
        let (registry, now) = (EndpointRegistry::default(), Instant::now());
        let gate = registry.gate(Some(("http://a", "a")), None, None, LONG);
        assert_eq!(gate.endpoint_status(now).unwrap().since, None);
        for _ in 0..20 {
            gate.admit(true, now)
                .unwrap()
                .record_outcome(&failed(), now, 1.0);
        }
        let since = gate.endpoint_status(now).unwrap().since;
        assert!(since.is_some());
        let later = now + Duration::from_secs(1);
        // As many probes as are made before the next pause.
        for _ in 0..5 {
            gate.admit(true, later)
                .unwrap()
                .record_outcome(&failed(), later, 1.0);
        }
        let standing = gate.endpoint_status(later).unwrap();
        assert_eq!((standing.opened, standing.since), (2, since));
        let later = later + Duration::from_secs(2);
        let probe = gate.admit(true, later).unwrap();
        probe.record_outcome(&Outcome::Delivered, later, 0.0);
        assert_eq!(
            gate.endpoint_status(later).unwrap().since,
            since,
            "little by little"
        );
        let later = later + Duration::from_secs(8);
        let standing = gate.endpoint_status(later).unwrap();
        assert_eq!(
            (standing.circuit, standing.since),
            (CircuitState::Closed, None)
        );
    }

    #[test]
    fn open_circuit_breaker_takes_no_token() {
        let (registry, now) = (EndpointRegistry::default(), Instant::now());
        let limit = RateLimit {
            attempts: 30,
            per: Duration::from_mins(1),
        };
        let gate = registry.gate(Some(("http://a", "a")), Some(limit), None, LONG);
        for _ in 0..20 {
            gate.admit(true, now)
                .unwrap()
                .record_outcome(&failed(), now, 1.0);
        }
        for _ in 0..100 {
            assert!(gate.admit(true, now).is_err());
        }
        let later = now + Duration::from_secs(1);
        gate.admit(true, later)
            .unwrap()
            .record_outcome(&Outcome::Delivered, later, 0.0);
        let later = later + Duration::from_secs(10);
        let admitted = std::iter::from_fn(|| gate.admit(true, later).ok()).count();
        assert_eq!(admitted, 9 + 5, "nine were left, and five came back");
    }

    #[test]
    fn unused_endpoints_are_dropped() {
        let registry = EndpointRegistry::default();
        for n in 0..100 {
            drop(registry.gate(Some((&format!("http://{n}"), "host")), None, None, LONG));
        }
        assert!(lock(&registry.endpoints).len() <= 1);
    }
}
