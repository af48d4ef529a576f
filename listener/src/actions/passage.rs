//! What every request passes on its way out: how much its host may be sent at once, rates, and the
//! breaker. A request counts once, whether it is for one delivery or for a batch of them.

use std::time::Duration;

use crds::config::RateLimit;
use tokio::time::Instant;

use super::fleet::Seat;
use super::gate::{Gate, Permit, Room, SHORTEST_WAIT, Standing};
use super::hosts::{Host, Slot};
use super::{Delivery, Outcome, Shared};

/// How long beyond its timeout a request counts as under way of which nothing is heard: it may wait
/// for its answer's end.
const SEAT_BEYOND: Duration = Duration::from_secs(5);

/// The way out of one action.
pub(super) struct Passage {
    pub(super) gate: Gate,
    pub(super) rate_limit: Option<RateLimit>,
    /// Of one request.
    pub(super) timeout: Duration,
    pub(super) shared: Shared,
}

/// A request that was admitted. Dropped, it was cut off.
pub(super) struct Admitted {
    permit: Permit,
    seat: Option<Seat>,
    _slot: Slot,
}

impl Passage {
    /// Admits a request, or says how long to wait. `limits` are those that it counts to in the fleet,
    /// see [`Passage::limits`].
    pub(super) async fn enter(&self, limits: &[(String, RateLimit)]) -> Result<Admitted, Duration> {
        let (slot, seat) = match self.gate.host() {
            Some(host) => Box::pin(self.enter_host(host)).await?,
            None => (None, None),
        };
        let permit = self.gate.admit(Instant::now())?;
        if let Some(fleet) = self.shared.fleet.as_ref().filter(|_| !limits.is_empty()) {
            Box::pin(fleet.take(limits)).await?;
        }
        Ok(Admitted {
            permit,
            seat,
            _slot: slot,
        })
    }

    /// Waits for its turn at a host with limits.
    async fn enter_host(&self, host: &Host) -> Result<(Slot, Option<Seat>), Duration> {
        let slot = host.slot(self.timeout).await.ok_or(SHORTEST_WAIT)?;
        let Some((fleet, most)) = self.shared.fleet.as_ref().zip(host.limit.max_in_flight) else {
            return Ok((slot, None));
        };
        let (lasts, patience) = (self.timeout + SEAT_BEYOND, self.timeout);
        let seat = fleet.seat(&host.name, most, lasts, patience).await;
        Ok((slot, Some(seat.ok_or(SHORTEST_WAIT)?)))
    }

    /// The limits that all processes keep together of what a request for `delivery`, or for it with
    /// others of its action, counts to.
    pub(super) fn limits(&self, delivery: &Delivery) -> Vec<(String, RateLimit)> {
        if self.shared.fleet.is_none() {
            return Vec::new();
        }
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

    /// How many requests would be admitted now; nothing where that is not bounded.
    pub(super) fn room(&self, now: Instant) -> Option<Room> {
        self.gate.room(now)
    }

    /// How the receiver is doing; nothing where there is none.
    pub(super) fn standing(&self) -> Option<Standing> {
        self.gate.standing()
    }
}

impl Admitted {
    /// Takes in what came of the request.
    pub(super) async fn leave(self, outcome: &Outcome) {
        self.permit.tell(outcome, Instant::now(), rand::random());
        if let Some(seat) = self.seat {
            Box::pin(seat.leave()).await;
        }
    }
}
