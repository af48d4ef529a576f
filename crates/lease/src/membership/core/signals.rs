//! What the core is told, and what it asks for.

use tokio::time::Instant;

use super::Breach;
use crate::membership::names::{LeaseKey, LeaseState, MemberId, ShardId};

/// Why a call came to nothing, as far as it matters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    Conflict,
    Missing,
    /// Whether it had its effect is not known.
    Failed(String),
}

/// Something that happened.
#[derive(Debug)]
pub(crate) enum Event {
    /// All Leases, and the version to follow them from.
    Listed(Vec<(LeaseKey, LeaseState)>, u64),
    /// The list was not to be had.
    NotListed(Breach),
    /// The changes are being followed.
    Following,
    /// The changes are followed no longer.
    Ended(Option<Breach>),
    /// A change that followed.
    Changed(LeaseKey, LeaseState),
    /// A deletion that followed.
    Gone(LeaseKey),
    /// A call about a Lease was answered, or given up after a retry period.
    Answered(LeaseKey, Result<Option<LeaseState>, Refusal>),
    /// The hold on a shard was dropped.
    Dropped(ShardId),
    /// The listener is to have that many shards.
    Wanted(u16),
    /// This process is to end.
    Stop,
    /// The timer of the membership has ended it.
    Expired,
    /// Time has passed.
    Woken,
}

/// Something to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    List,
    /// Follow the changes after this version; what was followed before is not to be any more.
    Follow(u64),
    /// Write a Lease, over the version that was seen or as a new one.
    Write {
        key: LeaseKey,
        over: Option<u64>,
        holder: Option<MemberId>,
        /// Of how many shards the member takes its share.
        desired_shards: u16,
    },
    Delete(LeaseKey, u64),
    Look(LeaseKey),
    /// The membership of this identity lasts until then.
    Until(MemberId, Instant),
    /// The membership and all holds have ended, this moment.
    LoseAll(&'static str),
    /// Hand a shard out.
    Begin(ShardId),
    /// Ask for a shard back.
    Leave(ShardId),
    /// The hold on a shard has ended, this moment.
    Lose(ShardId),
    /// All is done. Whether everything was given up.
    End(bool),
}
