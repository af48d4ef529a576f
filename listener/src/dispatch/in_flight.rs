//! One delivery on its way: what it belongs to, and what became of it so far.

use std::panic::AssertUnwindSafe;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use chrono::Utc;
use futures::FutureExt;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::lanes::LaneId;
use super::ledger::Place;
use super::observers::Compiled;
use crate::actions::{Delivery, Failure, FailureKind, Outcome};
use crate::dead_letters::store;
use crate::dead_letters::store::Attempt;
use crate::delivery::event::Event;

#[derive(Debug)]
pub(crate) struct Work {
    pub(crate) event: Arc<Event>,
    pub(crate) place: Place,
    /// Shard and epoch under which it was begun.
    pub(crate) of: (u16, i64),
    /// Since when it has been here.
    pub(crate) since: Instant,
    pub(crate) attempts: u32,
    pub(crate) history: Vec<Attempt>,
}

impl Work {
    pub(crate) const fn new(
        event: Arc<Event>,
        place: Place,
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
        store::note(&mut self.history, Attempt::new(Utc::now(), failure, took));
    }
}

/// An attempt that is over.
#[derive(Debug)]
pub(crate) struct Ended {
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
    work: &Work,
    cut: CancellationToken,
) -> impl Future<Output = Ended> + Send + use<> {
    let trying = try_once(compiled, Arc::clone(&work.event), work.attempts, None, cut);
    // What an `async` block awaits is in it twice, and there are thousands of these.
    trying.map(move |(outcome, took)| Ended {
        lane,
        outcome,
        took,
    })
}

/// Makes one attempt, unless it is cut off. Answers with what came of it, nothing if it was cut
/// off, and how long it took.
pub(crate) fn try_once(
    compiled: &Compiled,
    event: Arc<Event>,
    attempt: u32,
    replay: Option<Arc<str>>,
    cut: CancellationToken,
) -> impl Future<Output = (Option<Outcome>, Duration)> + Send + use<> {
    let action = Arc::clone(&compiled.action);
    let barred = compiled.bars(&event);
    let delivery = Delivery {
        event,
        observer: Arc::clone(&compiled.name.0),
        action: Arc::clone(&compiled.name.1),
        attempt,
        replay,
    };
    async move {
        let begun = Instant::now();
        if let Some(failure) = barred {
            return (Some(Outcome::Refused(failure)), begun.elapsed());
        }
        let trying = AssertUnwindSafe(action.attempt(&delivery, Utc::now())).catch_unwind();
        let trying = pin!(trying);
        let tried = cut.run_until_cancelled(trying).await;
        let broke_down = |_| {
            let message =
                "the action broke down on this event; the log tells where. Please report it";
            Outcome::Refused(Failure::of(FailureKind::Event, message))
        };
        let outcome = tried.map(|tried| tried.unwrap_or_else(broke_down));
        (outcome, begun.elapsed())
    }
}

/// What a delivery of an event counts for against the bound on what is held: the event and a flat
/// share.
pub(crate) fn weight(event: &Event) -> u64 {
    const SHARE: u64 = 512;
    SHARE + event.bytes()
}
