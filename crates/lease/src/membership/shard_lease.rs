//! Shard leases, as they are granted to the caller.

use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use super::names::{MemberId, ShardId};

/// Exclusive right to work on a shard.
///
/// Dropping it confirms that no work on the shard is in flight any more. Only then is the shard's
/// Lease released, unless it was lost, and only then is the shard granted again.
#[derive(Debug)]
#[must_use = "dropping it releases the shard"]
pub struct ShardLease {
    shard_id: ShardId,
    holder: MemberId,
    lost: CancellationToken,
    release_requested: CancellationToken,
    _dropped: oneshot::Sender<()>,
}

/// Driver's side of a granted shard lease.
#[derive(Debug)]
pub(super) struct ShardLeaseHandle {
    pub(super) lost: CancellationToken,
    pub(super) release_requested: CancellationToken,
}

impl ShardLease {
    /// Creates a shard lease that ends with `membership` at the latest, and a receiver that
    /// completes when it is dropped.
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

    /// Returns the index of the shard.
    #[must_use]
    pub fn shard(&self) -> u16 {
        self.shard_id.shard
    }

    /// Returns the number of shards in the layout.
    #[must_use]
    pub fn shard_count(&self) -> u16 {
        self.shard_id.shard_count
    }

    /// Returns the identity that the shard's Lease names.
    #[must_use]
    pub fn holder(&self) -> &str {
        &self.holder
    }

    /// Token that is cancelled when the right has ended: at the deadline, by a timer that depends
    /// on no request and no other task, or when the Lease was seen with another holder or deleted.
    #[must_use]
    pub fn lost(&self) -> &CancellationToken {
        &self.lost
    }

    /// Token that is cancelled when the shard is to be handed over: deliveries in flight may finish
    /// and be saved before the shard lease is dropped.
    #[must_use]
    pub fn release_requested(&self) -> &CancellationToken {
        &self.release_requested
    }
}
