//! Owned shards: assigned to this process until they are released, fenced or lost.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use ::queue::LanesOfAction;
use tokio::sync::{oneshot, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::capture::position::Position;
use crate::capture::reader::{Assignment, Epoch, shard_of};
use crate::checkpoint::ClaimedShard;

/// How long the last commit of a released shard may take after its drain.
const FINAL_COMMIT_GRACE: Duration = Duration::from_secs(5);

/// A command to a dispatcher.
#[derive(Debug)]
pub enum ShardCommand {
    /// Deliver for a shard from now on.
    Assign {
        /// The shard.
        claimed: ClaimedShard,
        /// Its lanes that have jobs.
        jobs: Vec<LanesOfAction>,
        /// Its tokens.
        tokens: ShardTokens,
    },
    /// Drain a shard, save it, and release it.
    Release {
        /// The shard.
        shard: u16,
        /// How long attempts may take; the commit comes after that.
        drain: Duration,
        /// Is told once nothing of it is in flight. Nothing of it is saved after that.
        released: oneshot::Sender<()>,
    },
}

/// Cancellation of an owned shard.
#[derive(Clone, Debug)]
pub struct ShardTokens {
    /// Cancelled when its attempts must stop at once.
    pub cancel: CancellationToken,
    /// Cancelled by the dispatcher when another process has claimed the shard.
    pub fenced: CancellationToken,
}

/// An owned shard.
#[derive(Debug)]
struct OwnedShard {
    epoch: Epoch,
    tokens: ShardTokens,
    /// Running attempts.
    running: usize,
    draining: Option<Draining>,
}

/// The deadlines of a shard that is being released.
#[derive(Debug)]
struct Draining {
    /// When attempts are cancelled.
    cancel_at: Instant,
    /// When it is released, saved or not.
    release_at: Instant,
    released: oneshot::Sender<()>,
}

/// The owned shards, and the running attempts of each.
#[derive(Debug)]
pub(super) struct OwnedShards {
    shards: BTreeMap<u16, OwnedShard>,
    shard_count: u16,
    /// Tells the reader what to read.
    assignment: watch::Sender<Assignment>,
}

impl OwnedShards {
    /// Creates no shards, of a listener that has `shard_count`.
    pub(super) const fn new(shard_count: u16, assignment: watch::Sender<Assignment>) -> Self {
        Self {
            shards: BTreeMap::new(),
            shard_count,
            assignment,
        }
    }

    /// Adds a shard, and has it read from a position.
    pub(super) fn assign(
        &mut self,
        shard: u16,
        epoch: Epoch,
        position: Position,
        tokens: ShardTokens,
    ) {
        self.assignment
            .send_modify(|all| drop(all.insert(shard, (epoch, position))));
        let owned = OwnedShard {
            epoch,
            tokens,
            running: 0,
            draining: None,
        };
        self.shards.insert(shard, owned);
    }

    /// Stops reading a shard, and sets the deadlines of its release. Returns whether it is owned.
    pub(super) fn start_draining(
        &mut self,
        shard: u16,
        drain: Duration,
        released: oneshot::Sender<()>,
    ) -> bool {
        let Some(owned) = self.shards.get_mut(&shard) else {
            // It is removed already; the receiver may be gone too.
            let _gone = released.send(());
            return false;
        };
        let cancel_at = Instant::now() + drain;
        owned.draining = Some(Draining {
            cancel_at,
            release_at: cancel_at + FINAL_COMMIT_GRACE,
            released,
        });
        self.stop_reading(shard);
        true
    }

    /// Removes a shard and cancels its attempts. Returns whether it was owned.
    pub(super) fn remove(&mut self, shard: u16) -> bool {
        let Some(owned) = self.shards.remove(&shard) else {
            return false;
        };
        owned.tokens.cancel.cancel();
        self.stop_reading(shard);
        if let Some(draining) = owned.draining {
            // The receiver may be gone.
            let _gone = draining.released.send(());
        }
        true
    }

    fn stop_reading(&self, shard: u16) {
        self.assignment.send_modify(|all| drop(all.remove(&shard)));
    }

    /// Counts an attempt. Returns the token that cancels it, if the shard is owned.
    pub(super) fn start_attempt(&mut self, shard: u16) -> Option<CancellationToken> {
        let owned = self.shards.get_mut(&shard)?;
        owned.running += 1;
        Some(owned.tokens.cancel.clone())
    }

    /// Counts the end of an attempt. Returns whether the shard is draining, if it is still owned under
    /// this epoch.
    pub(super) fn end_attempt(&mut self, (shard, epoch): (u16, Epoch)) -> Option<bool> {
        let owned = self.shards.get_mut(&shard)?;
        if owned.epoch != epoch {
            return None;
        }
        owned.running = owned.running.saturating_sub(1);
        Some(owned.draining.is_some())
    }

    /// Cancels the attempts of draining shards that take too long. Returns the shards whose release is
    /// overdue.
    pub(super) fn enforce_deadlines(&self, now: Instant) -> Vec<u16> {
        let mut overdue = Vec::new();
        for (shard, owned) in &self.shards {
            let Some(draining) = &owned.draining else {
                continue;
            };
            if now >= draining.cancel_at && owned.has_attempts_to_cancel() {
                let attempts = owned.running;
                tracing::warn!(
                    shard,
                    attempts,
                    "drain timeout: cutting off attempts; their deliveries are made again"
                );
                owned.tokens.cancel.cancel();
            }
            if now >= draining.release_at {
                overdue.push(*shard);
            }
        }
        overdue
    }

    /// Returns the next deadline of a draining shard.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        let deadlines = self.shards.values().filter_map(|owned| {
            let draining = owned.draining.as_ref()?;
            Some(if owned.has_attempts_to_cancel() {
                draining.cancel_at
            } else {
                draining.release_at
            })
        });
        deadlines.min()
    }

    /// Returns the draining shards without running attempts.
    pub(super) fn drained(&self) -> BTreeSet<u16> {
        let drained = self
            .shards
            .iter()
            .filter(|(_, owned)| owned.draining.is_some() && owned.running == 0);
        drained.map(|(shard, _)| *shard).collect()
    }

    /// Returns the epoch of a shard.
    pub(super) fn epoch(&self, shard: u16) -> Option<Epoch> {
        Some(self.shards.get(&shard)?.epoch)
    }

    /// Returns the epoch of a shard that is not draining.
    pub(super) fn active_epoch(&self, shard: u16) -> Option<Epoch> {
        let owned = self.shards.get(&shard)?;
        owned.draining.is_none().then_some(owned.epoch)
    }

    /// Returns the token to cancel when a shard is fenced, if it is owned under this epoch.
    pub(super) fn fenced_token(&self, shard: u16, epoch: Epoch) -> Option<CancellationToken> {
        let owned = self.shards.get(&shard)?;
        (owned.epoch == epoch).then(|| owned.tokens.fenced.clone())
    }

    /// Returns the numbers of the shards.
    pub(super) fn numbers(&self) -> Vec<u16> {
        self.shards.keys().copied().collect()
    }

    /// Returns whether no shard is owned.
    pub(super) fn is_empty(&self) -> bool {
        self.shards.is_empty()
    }

    /// Returns the shard of a key, by its hash.
    pub(super) fn shard_of(&self, hash: u32) -> u16 {
        shard_of(hash, self.shard_count)
    }

    /// Returns how many shards the listener has.
    pub(super) const fn shard_count(&self) -> u16 {
        self.shard_count
    }
}

impl OwnedShard {
    fn has_attempts_to_cancel(&self) -> bool {
        self.running > 0 && !self.tokens.cancel.is_cancelled()
    }
}
