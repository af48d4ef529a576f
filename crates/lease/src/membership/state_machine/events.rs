//! Inputs and commands of the state machine.

use tokio::time::Instant;

use super::WatchError;
use crate::membership::names::{LeaseKey, LeaseState, MemberId, ShardId};

/// Why a request failed, as far as the state machine needs to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum WriteError {
    Conflict,
    Missing,
    /// It may have taken effect all the same.
    Failed(String),
}

/// Event that the state machine reacts to.
#[derive(Debug)]
pub(crate) enum Input {
    /// A list has succeeded, with the version to watch from.
    Listed(Vec<(LeaseKey, LeaseState)>, u64),
    /// A list has failed.
    ListFailed(WatchError),
    /// A watch was opened.
    WatchOpened,
    /// The watch has ended, or could not be opened.
    WatchEnded(Option<WatchError>),
    /// The watch shows a new or modified Lease.
    LeaseChanged(LeaseKey, LeaseState),
    /// The watch shows a deleted Lease.
    LeaseDeleted(LeaseKey),
    /// A request about a Lease was answered, or timed out.
    Response(LeaseKey, Result<Option<LeaseState>, WriteError>),
    /// The caller dropped a shard lease.
    ShardDropped(ShardId),
    /// The number of shards was configured.
    ShardCount(u16),
    /// Shutdown was requested.
    Stop,
    /// The renew deadline of the membership has passed.
    Expired,
    /// The next wake-up is due.
    Tick,
}

/// Action that the driver executes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Command {
    List,
    /// Watch from this version on, in place of any watch before.
    Watch(u64),
    /// Write a Lease, over the version that was seen or as a new one.
    Write {
        key: LeaseKey,
        replaces: Option<u64>,
        holder: Option<MemberId>,
        /// Shard count that a member announces; zero if it takes no shards.
        desired_shards: u16,
    },
    Delete(LeaseKey, u64),
    Get(LeaseKey),
    /// Set the renew deadline of the membership with this identity.
    SetDeadline(MemberId, Instant),
    /// End the membership and all shard leases at once.
    RevokeAll(&'static str),
    /// Grant a shard lease to the caller.
    Grant(ShardId),
    /// Request the release of a shard lease.
    RequestRelease(ShardId),
    /// End a shard lease at once.
    Revoke(ShardId),
    /// End the driver. Tells whether everything was released.
    Finished(bool),
}
