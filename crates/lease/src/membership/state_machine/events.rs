//! What the core is told, and what it asks for.

use tokio::time::Instant;

use super::WatchError;
use crate::membership::names::{LeaseKey, LeaseState, MemberId, ShardId};

/// Why a call came to nothing, as far as it matters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum WriteError {
    Conflict,
    Missing,
    /// Whether it had its effect is not known.
    Failed(String),
}

/// Something that happened.
#[derive(Debug)]
pub(crate) enum Input {
    /// All Leases, and the version to follow them from.
    Listed(Vec<(LeaseKey, LeaseState)>, u64),
    /// The list was not to be had.
    ListFailed(WatchError),
    /// The changes are being followed.
    WatchOpened,
    /// The changes are followed no longer.
    WatchEnded(Option<WatchError>),
    /// A change that followed.
    LeaseChanged(LeaseKey, LeaseState),
    /// A deletion that followed.
    LeaseDeleted(LeaseKey),
    /// A call about a Lease was answered, or given up after a retry period.
    Response(LeaseKey, Result<Option<LeaseState>, WriteError>),
    /// The hold on a shard was dropped.
    ShardDropped(ShardId),
    /// The listener is to have that many shards.
    ShardCount(u16),
    /// This process is to end.
    Stop,
    /// The timer of the membership has ended it.
    Expired,
    /// Time has passed.
    Tick,
}

/// Something to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Command {
    List,
    /// Follow the changes after this version; what was followed before is not to be any more.
    Watch(u64),
    /// Write a Lease, over the version that was seen or as a new one.
    Write {
        key: LeaseKey,
        replaces: Option<u64>,
        holder: Option<MemberId>,
        /// Of how many shards the member takes its share.
        desired_shards: u16,
    },
    Delete(LeaseKey, u64),
    Get(LeaseKey),
    /// The membership of this identity lasts until then.
    SetDeadline(MemberId, Instant),
    /// The membership and all holds have ended, this moment.
    RevokeAll(&'static str),
    /// Hand a shard out.
    Grant(ShardId),
    /// Ask for a shard back.
    RequestRelease(ShardId),
    /// The hold on a shard has ended, this moment.
    Revoke(ShardId),
    /// All is done. Whether everything was given up.
    Finished(bool),
}
