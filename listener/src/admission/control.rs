//! What every request passes on its way out: how much its host may be sent at once, rates, and the
//! breaker. A request counts once, whether it is for one delivery or for a batch of them.

use std::time::Duration;

use crds::config::RateLimit;
use tokio::time::Instant;

use super::action_runtime::Shared;
use super::endpoint_gate::{Gate, Permit, SHORTEST_WAIT};
use super::host_limits::{Host, Slot};
use super::redis_limiter::Seat;
use crate::delivery::Delivery;
use crate::delivery::outcome::Outcome;
use crate::egress::redaction::Scrub;

/// How long beyond its timeout a request counts as under way of which nothing is heard: it may wait
/// for its answer's end.
const SEAT_BEYOND: Duration = Duration::from_secs(5);

/// The way out of one action.
pub(crate) struct Passage {
    pub(crate) gate: Gate,
    pub(crate) rate_limit: Option<RateLimit>,
    /// Of one request.
    pub(crate) timeout: Duration,
    pub(crate) shared: Shared,
    /// Takes the action's secrets out of what is said of an attempt.
    pub(crate) scrub: Scrub,
}

/// A request that was admitted. Dropped, it was cut off.
pub(crate) struct Admitted {
    permit: Permit,
    seat: Option<Seat>,
    _slot: Slot,
}

impl Passage {
    /// Admits a request for `delivery`, or for it with others of its action; or says how long to wait.
    pub(crate) async fn enter(&self, delivery: &Delivery) -> Result<Admitted, Duration> {
        let (slot, seat) = match self.gate.host() {
            Some(host) => Box::pin(self.enter_host(host)).await?,
            None => (None, None),
        };
        match self.admit(delivery).await {
            Ok(permit) => Ok(Admitted {
                permit,
                seat,
                _slot: slot,
            }),
            Err(wait) => {
                leave(seat).await;
                Err(wait)
            }
        }
    }

    /// The same, once its host has room for it.
    async fn admit(&self, delivery: &Delivery) -> Result<Permit, Duration> {
        let permit = self.gate.admit(delivery.attempt <= 1, Instant::now())?;
        if let Some(fleet) = &self.shared.fleet {
            let limits = self.limits(delivery);
            if !limits.is_empty() {
                Box::pin(fleet.take(&limits)).await?;
            }
        }
        Ok(permit)
    }

    /// Waits for its turn at a host with limits.
    async fn enter_host(&self, host: &Host) -> Result<(Slot, Option<Seat>), Duration> {
        let slot = host.slot(self.timeout).await.ok_or(SHORTEST_WAIT)?;
        let Some((fleet, most)) = self.shared.fleet.as_ref().zip(host.limit.max_concurrency) else {
            return Ok((slot, None));
        };
        let (lasts, patience) = (self.timeout + SEAT_BEYOND, self.timeout);
        let seat = fleet.seat(&host.name, most, lasts, patience).await;
        Ok((slot, Some(seat.ok_or(SHORTEST_WAIT)?)))
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

impl Admitted {
    /// Takes in what came of the request.
    pub(crate) async fn leave(self, outcome: &Outcome) {
        self.permit.tell(outcome, Instant::now(), rand::random());
        leave(self.seat).await;
    }
}

/// Leaves a seat to others.
async fn leave(seat: Option<Seat>) {
    if let Some(seat) = seat {
        Box::pin(seat.leave()).await;
    }
}
