//! What happens in the simulation, in the order of true time.

use super::api_server::LeaseRequest;
use super::database::Positions;
use crate::membership::names::{LeaseKey, LeaseState, ShardId};
use crate::membership::state_machine::{WatchError, WriteError};
use crate::testing::Micros;

#[derive(Debug)]
pub(super) enum SimEvent {
    Wake(u64),
    /// A call comes to the API server, which knows no processes.
    RequestArrives(u64, LeaseRequest),
    ResponseArrives(u64, LeaseKey, Result<Option<LeaseState>, WriteError>),
    ListRequestArrives(u64),
    ListResponseArrives(u64, Result<(Vec<(LeaseKey, LeaseState)>, u64), WatchError>),
    WatchRequestArrives(u64, u64),
    WatchResponseArrives(u64, Result<(), WatchError>),
    /// The next change comes over a watch.
    WatchEventArrives(u64),
    WatchEnds(u64, Option<WatchError>),
    /// Processes learn of the number of shards at different times.
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

/// An event and when it is due.
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
