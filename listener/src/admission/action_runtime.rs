//! What all actions of a process share.

use crds::config::{Egress, ListenerConfig, OwnDatabase, Redacted};
use crds::v1alpha1::DEFAULT_MAX_CONCURRENCY;
use reqwest::Client;

use crate::admission::endpoint_gate::Gates;
use crate::admission::redis_limiter::Fleet;
use crate::egress::http_client;
use crate::egress::policy::Guard;

/// The connections, and the rule where they may lead.
#[derive(Clone, Debug)]
pub struct Shared {
    /// Judges every address before it is dialled.
    pub(crate) guard: Guard,
    /// The client of webhooks.
    pub(crate) http: Client,
    /// What is known of receivers.
    pub(crate) gates: Gates,
    /// The listener's database, where actions may run statements in it.
    pub(crate) own_database: Option<OwnDatabase>,
    /// Limits that all processes keep together, where the listener has a Redis.
    pub(crate) fleet: Option<Fleet>,
    /// Most requests of one action under way at once that does not say so itself.
    pub(crate) max_in_flight: u32,
}

/// The HTTP client cannot be set up.
#[derive(Debug, thiserror::Error)]
#[error("the HTTP client cannot be set up: are the system's root certificates installed?")]
pub struct SharedError(#[from] reqwest::Error);

impl Shared {
    /// Sets up what is shared; opens no connection. What is known of receivers outlives it in
    /// `gates`.
    pub fn new(egress: &Egress, gates: &Gates) -> Result<Self, SharedError> {
        let guard = Guard::new(egress);
        Ok(Self {
            http: http_client::client(&guard)?,
            guard,
            gates: gates.clone(),
            own_database: egress.own_database.clone(),
            fleet: None,
            max_in_flight: DEFAULT_MAX_CONCURRENCY,
        })
    }

    /// The same with limits that all processes keep together.
    #[must_use]
    pub fn with_fleet(self, fleet: Option<Fleet>) -> Self {
        Self { fleet, ..self }
    }

    /// The same with another bound on how many requests of one action are under way at once.
    #[must_use]
    pub fn with_max_in_flight(self, max_in_flight: u32) -> Self {
        Self {
            max_in_flight,
            ..self
        }
    }
}

/// What connections rest on: where they may go, and the Redis of a listener with its identity there.
type Basis = (Egress, Option<(Redacted, String)>);

/// Sets up what is shared for one state of a listener after the other, and keeps connections open while
/// they may go to the same places.
#[derive(Debug, Default)]
pub struct Kept {
    gates: Gates,
    last: Option<(Basis, Shared)>,
}

impl Kept {
    /// What the actions of this listener share.
    pub fn of(&mut self, listener: &ListenerConfig) -> Result<Shared, SharedError> {
        let identity = listener.identity();
        let redis = listener.queue.redis.clone();
        let by = (listener.egress.clone(), redis.map(|url| (url, identity)));
        let most = listener.max_concurrency;
        if let Some((_, shared)) = self.last.as_ref().filter(|(known, _)| *known == by) {
            return Ok(shared.clone().with_max_in_flight(most));
        }
        let redis = by.1.as_ref();
        let fleet = redis.and_then(|(url, identity)| Fleet::new(url, identity));
        let shared = Shared::new(&by.0, &self.gates)?.with_fleet(fleet);
        self.last = Some((by, shared.clone()));
        Ok(shared.with_max_in_flight(most))
    }
}
