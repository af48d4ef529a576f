//! Whether an attempt may be made now: what is down is left alone, and limits are kept.
//!
//! What is not admitted has cost no attempt; it waits in the job queue, which takes no more of an
//! action's jobs than there is room for.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::time::Duration;

use chrono::{DateTime, Utc};
use crds::config::{HostLimit, RateLimit};
use tokio::time::Instant;

use crate::sync::lock;

use super::circuit_breaker::{Breaker, Change, Condition, Sign, Ticket};
use super::host_limits::{Host, Hosts, without_port};
use super::rate_limiter::Bucket;
use crate::delivery::failure::{Failure, FailureKind, Tells};
use crate::delivery::outcome::Outcome;

/// Shortest wait of what is not admitted.
pub(crate) const SHORTEST_WAIT: Duration = Duration::from_millis(10);

/// Where something goes, and how that is doing.
#[derive(Debug)]
struct Endpoint {
    /// For people; holds no secret.
    host: String,
    health: Mutex<Health>,
}

#[derive(Debug)]
struct Health {
    breaker: Breaker,
    /// The failure that opened it.
    why: Option<String>,
    /// When that was, the first time since it was closed.
    since: Option<DateTime<Utc>>,
}

/// All endpoints of a process, and hosts that have limits. Actions with the same one share what is
/// known of it.
#[derive(Clone, Debug, Default)]
pub struct Gates {
    endpoints: Arc<Mutex<HashMap<String, Weak<Endpoint>>>>,
    hosts: Arc<Mutex<Hosts>>,
}

impl Gates {
    /// The gate of one action: `endpoint` names where it goes, as a key that may hold a secret and
    /// as a host for people; nothing where it goes nowhere. `limit` is for all that goes to that host.
    ///
    /// What the receiver asks for is granted for up to `longest_wish`.
    pub(crate) fn gate(
        &self,
        endpoint: Option<(&str, &str)>,
        rate: Option<RateLimit>,
        limit: Option<&HostLimit>,
        longest_wish: Duration,
    ) -> Gate {
        let limited = endpoint.zip(limit);
        Gate {
            longest_wish,
            endpoint: endpoint.map(|(key, host)| self.endpoint(key, host)),
            host: limited
                .map(|((_, host), limit)| lock(&self.hosts).host(without_port(host), limit)),
            bucket: rate.map(|limit| Arc::new(Mutex::new(Bucket::new(limit)))),
        }
    }

    fn endpoint(&self, key: &str, host: &str) -> Arc<Endpoint> {
        let mut all = lock(&self.endpoints);
        if let Some(known) = all.get(key).and_then(Weak::upgrade) {
            return known;
        }
        // Those that no action has any more.
        all.retain(|_, known| known.strong_count() > 0);
        let new = Arc::new(Endpoint {
            host: host.to_owned(),
            health: Mutex::new(Health {
                breaker: Breaker::new(),
                why: None,
                since: None,
            }),
        });
        all.insert(key.to_owned(), Arc::downgrade(&new));
        new
    }
}

/// What holds the attempts of one action back.
#[derive(Clone, Debug)]
pub(crate) struct Gate {
    endpoint: Option<Arc<Endpoint>>,
    host: Option<Arc<Host>>,
    bucket: Option<Arc<Mutex<Bucket>>>,
    longest_wish: Duration,
}

/// How many attempts of an action would be admitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    /// So many.
    pub most: u32,
    /// Where that is none, when there are some again.
    pub next: Instant,
}

/// How the endpoint of an action is doing.
#[derive(Clone, Debug)]
pub struct Standing {
    /// Whether it is left alone.
    pub condition: Condition,
    /// Since when, if it is.
    pub since: Option<DateTime<Utc>>,
    /// How often that was begun, in this process.
    pub opened: u64,
    /// Why, in words; nothing if it never was.
    pub why: Option<String>,
}

/// An attempt that was admitted. What came of it is to be told; dropped, it was cut off.
#[derive(Debug)]
pub(crate) struct Permit {
    endpoint: Option<(Arc<Endpoint>, Ticket)>,
    longest_wish: Duration,
}

impl Gate {
    /// The host that it goes to, where that has limits.
    pub(crate) const fn host(&self) -> Option<&Arc<Host>> {
        self.host.as_ref()
    }

    /// The buckets of tokens that an attempt needs one each of.
    fn buckets(&self) -> impl Iterator<Item = &Mutex<Bucket>> {
        let of_host = self.host.as_ref().and_then(|host| host.bucket.as_ref());
        self.bucket.as_deref().into_iter().chain(of_host)
    }

    /// Admits an attempt, `fresh` if its delivery has not failed before, or says how long to wait.
    pub(crate) fn admit(&self, fresh: bool, now: Instant) -> Result<Permit, Duration> {
        // Always in this order, the action's own and the host's.
        let mut buckets: Vec<MutexGuard<'_, Bucket>> = self.buckets().map(lock).collect();
        let wait = buckets.iter().filter_map(|bucket| bucket.wait(now)).max();
        if let Some(wait) = wait {
            return Err(wait.max(SHORTEST_WAIT));
        }
        let admitted = self.endpoint.as_ref().map(|endpoint| {
            let ticket = lock(&endpoint.health).breaker.admit(fresh, now)?;
            Ok((Arc::clone(endpoint), ticket))
        });
        let endpoint = admitted
            .transpose()
            .map_err(|wait: Duration| wait.max(SHORTEST_WAIT))?;
        for bucket in &mut buckets {
            bucket.take(now);
        }
        Ok(Permit {
            endpoint,
            longest_wish: self.longest_wish,
        })
    }

    /// How many would be admitted now; nothing where that is not bounded.
    pub(crate) fn room(&self, now: Instant) -> Option<Room> {
        let of_rates = self.buckets().map(|bucket| lock(bucket).room(now));
        let endpoint = self.endpoint.as_ref();
        let of_breaker = endpoint.and_then(|endpoint| lock(&endpoint.health).breaker.room(now));
        let free = self.host.as_ref().and_then(|host| host.free());
        let of_host = free.map(|free| match free {
            0 => (0, now + SHORTEST_WAIT),
            free => (free, now),
        });
        of_rates
            .chain(of_breaker)
            .chain(of_host)
            .map(|(most, next)| Room { most, next })
            .reduce(|one, other| Room {
                most: one.most.min(other.most),
                next: one.next.max(other.next),
            })
    }

    pub(crate) fn standing(&self, now: Instant) -> Option<Standing> {
        let endpoint = self.endpoint.as_ref()?;
        let health = lock(&endpoint.health);
        let condition = health.breaker.condition(now);
        Some(Standing {
            condition,
            since: health.since.filter(|_| condition != Condition::Closed),
            opened: health.breaker.opened(),
            why: health.why.clone(),
        })
    }
}

impl Permit {
    /// Takes in what came of the attempt. `random` is drawn from 0 to 1.
    pub(crate) fn tell(mut self, outcome: &Outcome, now: Instant, random: f64) {
        let Some((endpoint, ticket)) = self.endpoint.take() else {
            return;
        };
        let sign = sign(outcome, self.longest_wish);
        let mut health = lock(&endpoint.health);
        let was_closed = health.breaker.condition(now) == Condition::Closed;
        let change = health.breaker.note(ticket, sign, now, random);
        if matches!(change, Some(Change::Opened(_))) && was_closed {
            health.since = Some(Utc::now());
        }
        let host = &*endpoint.host;
        match (change, outcome) {
            (Some(Change::Opened(wait)), Outcome::Retry { failure, .. }) => {
                health.why = Some(failure.message.clone());
                tracing::warn!(
                    host,
                    error = failure.message,
                    "leaving a receiver alone that fails; deliveries to it wait and cost no attempt, the next \
                     is made in {wait:.1?}"
                );
            }
            (Some(Change::Returned), _) => tracing::info!(
                host,
                "the receiver answers again; what waits for it goes there little by little"
            ),
            _ => {}
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if let Some((endpoint, ticket)) = self.endpoint.take() {
            let mut health = lock(&endpoint.health);
            health.breaker.note(ticket, Sign::None, Instant::now(), 0.0);
        }
    }
}

/// What an outcome tells of the other side.
fn sign(outcome: &Outcome, longest_wish: Duration) -> Sign {
    match outcome {
        Outcome::Delivered => Sign::Well,
        Outcome::Retry {
            failure: Failure {
                status: Some(429), ..
            },
            after: Some(wish),
        } => Sign::Busy((*wish).min(longest_wish)),
        Outcome::Retry { failure, .. } => match failure.tells {
            Tells::Nothing => Sign::None,
            Tells::There => Sign::There,
            Tells::Failed => Sign::Failed,
            Tells::Away => Sign::Away,
        },
        // Whoever refuses is there, and says nothing of others.
        Outcome::Rejected(failure) => match failure.kind {
            FailureKind::Status | FailureKind::Redirect | FailureKind::Response => Sign::There,
            _ => Sign::None,
        },
        Outcome::Deferred(_) => Sign::None,
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
    fn actions_with_one_endpoint_share_what_is_known_of_it() {
        let (gates, now) = (Gates::default(), Instant::now());
        let one = gates.gate(Some(("http://a/x", "a")), None, None, LONG);
        let other = gates.gate(Some(("http://a/x", "a")), None, None, LONG);
        let elsewhere = gates.gate(Some(("http://a/y", "a")), None, None, LONG);
        for _ in 0..20 {
            one.admit(true, now).unwrap().tell(&failed(), now, 1.0);
        }
        assert!(other.admit(true, now).is_err());
        assert_eq!(other.room(now).unwrap().most, 0);
        assert!(elsewhere.admit(true, now).is_ok());
        let standing = other.standing(now).unwrap();
        assert_eq!(standing.condition, Condition::Open);
        assert_eq!(standing.why.unwrap(), "no connection");
    }

    #[test]
    fn since_when_it_is_left_alone_stays_until_it_is_back() {
        let (gates, now) = (Gates::default(), Instant::now());
        let gate = gates.gate(Some(("http://a", "a")), None, None, LONG);
        assert_eq!(gate.standing(now).unwrap().since, None);
        for _ in 0..20 {
            gate.admit(true, now).unwrap().tell(&failed(), now, 1.0);
        }
        let since = gate.standing(now).unwrap().since;
        assert!(since.is_some());
        let later = now + Duration::from_secs(1);
        // As many probes as are made before the next pause.
        for _ in 0..5 {
            gate.admit(true, later).unwrap().tell(&failed(), later, 1.0);
        }
        let standing = gate.standing(later).unwrap();
        assert_eq!((standing.opened, standing.since), (2, since));
        let later = later + Duration::from_secs(2);
        let probe = gate.admit(true, later).unwrap();
        probe.tell(&Outcome::Delivered, later, 0.0);
        assert_eq!(
            gate.standing(later).unwrap().since,
            since,
            "little by little"
        );
        let later = later + Duration::from_secs(8);
        let standing = gate.standing(later).unwrap();
        assert_eq!(
            (standing.condition, standing.since),
            (Condition::Closed, None)
        );
    }

    #[test]
    fn what_the_breaker_holds_back_takes_no_token() {
        let (gates, now) = (Gates::default(), Instant::now());
        let limit = RateLimit {
            attempts: 30,
            per: Duration::from_mins(1),
        };
        let gate = gates.gate(Some(("http://a", "a")), Some(limit), None, LONG);
        for _ in 0..20 {
            gate.admit(true, now).unwrap().tell(&failed(), now, 1.0);
        }
        for _ in 0..100 {
            assert!(gate.admit(true, now).is_err());
        }
        let later = now + Duration::from_secs(1);
        gate.admit(true, later)
            .unwrap()
            .tell(&Outcome::Delivered, later, 0.0);
        let later = later + Duration::from_secs(10);
        let admitted = std::iter::from_fn(|| gate.admit(true, later).ok()).count();
        assert_eq!(admitted, 9 + 5, "nine were left, and five came back");
    }

    #[test]
    fn endpoints_that_no_action_has_are_forgotten() {
        let gates = Gates::default();
        for n in 0..100 {
            drop(gates.gate(Some((&format!("http://{n}"), "host")), None, None, LONG));
        }
        assert!(lock(&gates.endpoints).len() <= 1);
    }
}
