//! Events of the simulation, in the order of true time.

use super::api_server::LeaseRequest;
use super::database::Positions;
use crate::membership::names::{LeaseKey, LeaseState, ShardId};
use crate::membership::state_machine::{WatchError, WriteError};
use crate::testing::Micros;

/// Event of the simulation.
#[derive(Debug)]
pub(super) enum SimEvent {
    Wake(u64),
    /// A request reaches the API server, even if its process has died.
    RequestArrives(u64, LeaseRequest),
    ResponseArrives(u64, LeaseKey, Result<Option<LeaseState>, WriteError>),
    ListRequestArrives(u64),
    ListResponseArrives(u64, Result<(Vec<(LeaseKey, LeaseState)>, u64), WatchError>),
    WatchRequestArrives(u64, u64),
    WatchResponseArrives(u64, Result<(), WatchError>),
    /// The next change arrives over a watch.
    WatchEventArrives(u64),
    WatchEnds(u64, Option<WatchError>),
    /// A process learns of a new number of shards, each at its own time.
    ShardCountChanges(u64, u16),
    WorkerStep(ShardId, u64),
    ClaimResponseArrives(ShardId, u64, u64, Positions),
    SaveResponseArrives(ShardId, u64, bool),
    ClaimRequestArrives(ShardId, u64),
    SaveRequestArrives(ShardId, u64, u64, Positions),
    Start,
    InjectFault,
    AppendEvent,
    CheckSettled,
}

/// Event with its due time.
pub(super) struct ScheduledEvent {
    pub(super) at: Micros,
    pub(super) order: u64,
    pub(super) process: usize,
    pub(super) incarnation: u64,
    pub(super) what: SimEvent,
}

impl PartialEq for ScheduledEvent {
    fn eq(&self, other: &Self) -> bool {
        self.order == other.order
    }
}
impl Eq for ScheduledEvent {}
impl PartialOrd for ScheduledEvent {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for ScheduledEvent {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.order).cmp(&(other.at, other.order))
    }
}
