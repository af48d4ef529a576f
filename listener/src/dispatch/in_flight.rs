//! One delivery on its way: what it belongs to, and what became of it so far.

use std::sync::Arc;
use std::time::Duration;

use chrono::Utc;
use futures::FutureExt;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::ledger::EventRef;
use crate::delivery::attempt::{self, Attempt};
use crate::delivery::event::Event;
use crate::delivery::failure::Failure;
use crate::delivery::outcome::Outcome;
use crate::observers::Compiled;
use crate::observers::LaneId;
use crate::observers::attempt::try_once;

#[derive(Debug)]
pub(crate) struct InFlightDelivery {
    pub(crate) event: Arc<Event>,
    pub(crate) place: EventRef,
    /// Shard and epoch under which it was begun.
    pub(crate) of: (u16, i64),
    /// Since when it has been here.
    pub(crate) since: Instant,
    pub(crate) attempts: u32,
    pub(crate) history: Vec<Attempt>,
}

impl InFlightDelivery {
    pub(crate) const fn new(
        event: Arc<Event>,
        place: EventRef,
        of: (u16, i64),
        since: Instant,
    ) -> Self {
        Self {
            event,
            place,
            of,
            since,
            attempts: 0,
            history: Vec::new(),
        }
    }

    /// Keeps the latest failures, with how long the attempts took.
    pub(crate) fn note(&mut self, failure: &Failure, took: Option<Duration>) {
        attempt::note(&mut self.history, Attempt::new(Utc::now(), failure, took));
    }
}

/// An attempt that is over.
#[derive(Debug)]
pub(crate) struct AttemptResult {
    pub(crate) lane: LaneId,
    /// Nothing if it was cut off.
    pub(crate) outcome: Option<Outcome>,
    pub(crate) took: Duration,
}

/// Makes one attempt, unless it is cut off. Should an action panic on some input, that input
/// alone suffers.
pub(crate) fn attempt(
    lane: LaneId,
    compiled: &Compiled,
    work: &InFlightDelivery,
    cut: CancellationToken,
) -> impl Future<Output = AttemptResult> + Send + use<> {
    let trying = try_once(compiled, Arc::clone(&work.event), work.attempts, None, cut);
    // What an `async` block awaits is in it twice, and there are thousands of these.
    trying.map(move |(outcome, took)| AttemptResult {
        lane,
        outcome,
        took,
    })
}

/// What a delivery of an event counts for against the bound on what is held: the event and a flat
/// share.
pub(crate) fn weight(event: &Event) -> u64 {
    const SHARE: u64 = 512;
    SHARE + event.bytes()
}
