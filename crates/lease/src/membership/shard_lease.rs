//! The right to work on a shard, as it is handed out.

use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use super::names::{MemberId, ShardId};

/// The right to work on a shard.
///
/// Dropping it says that nothing of the work is under way any more: then the shard's Lease is
/// given up, unless it was lost, and only then is the shard handed out again.
#[derive(Debug)]
#[must_use = "dropping it gives the shard up"]
pub struct ShardLease {
    shard_id: ShardId,
    holder: MemberId,
    lost: CancellationToken,
    release_requested: CancellationToken,
    _dropped: oneshot::Sender<()>,
}

/// What is kept of a hold that was handed out.
#[derive(Debug)]
pub(super) struct ShardLeaseHandle {
    pub(super) lost: CancellationToken,
    pub(super) release_requested: CancellationToken,
}

impl ShardLease {
    /// A hold that ends with `membership` at the latest; the receiver hears of its drop.
    pub(super) fn new(
        shard_id: ShardId,
        holder: MemberId,
        membership: &CancellationToken,
    ) -> (Self, ShardLeaseHandle, oneshot::Receiver<()>) {
        let (sender, dropped) = oneshot::channel();
        let (lost, release_requested) = (membership.child_token(), CancellationToken::new());
        let handle = ShardLeaseHandle {
            lost: lost.clone(),
            release_requested: release_requested.clone(),
        };
        let hold = Self {
            shard_id,
            holder,
            lost,
            release_requested,
            _dropped: sender,
        };
        (hold, handle, dropped)
    }

    /// The shard.
    #[must_use]
    pub fn shard(&self) -> u16 {
        self.shard_id.shard
    }

    /// How many shards there are.
    #[must_use]
    pub fn shard_count(&self) -> u16 {
        self.shard_id.shard_count
    }

    /// The identity that the Lease names.
    #[must_use]
    pub fn holder(&self) -> &str {
        &self.holder
    }

    /// Cancelled when the right to work has ended: at the deadline, by a timer that depends on
    /// no call and no other task, or when the Lease was seen in other hands or deleted.
    #[must_use]
    pub fn lost(&self) -> &CancellationToken {
        &self.lost
    }

    /// Cancelled when the shard is to be handed over: what is in flight may be finished and
    /// saved before the hold is dropped.
    #[must_use]
    pub fn release_requested(&self) -> &CancellationToken {
        &self.release_requested
    }
}
