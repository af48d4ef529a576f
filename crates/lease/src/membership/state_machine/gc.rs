//! Garbage collection of Leases: those of dead members and of former shard layouts.

use tokio::time::Instant;

use super::{MAX_PENDING_REQUESTS, MembershipState, RequestKind};
use crate::membership::names::{LeaseKey, MemberId, PodName, ShardId};
use crate::membership::view::Liveness;

/// Members see an expiry at the same moment; each waits for this share of a retry period longer
/// than the member before it.
const EXPIRY_STAGGER: u32 = 8;

impl MembershipState {
    /// Collects garbage, as far as it is this member's turn.
    pub(super) fn collect_garbage(&mut self, now: Instant) {
        if self.term.is_none() || self.shutdown.is_some() {
            return;
        }
        let rank = self
            .eligible_members
            .iter()
            .position(|id| *id == self.identity)
            .unwrap_or(0);
        let rank = u32::try_from(rank)
            .unwrap_or(EXPIRY_STAGGER)
            .min(EXPIRY_STAGGER);
        self.expire_dead_members(rank, now);
        if self.is_gc_leader(now) {
            self.delete_stale_shard_leases(now);
        }
    }

    /// Expires dead members by a write, so that their shards can be taken over, and deletes the
    /// Leases of members that no shard's Lease names any more.
    fn expire_dead_members(&mut self, rank: u32, now: Instant) {
        let pods: Vec<PodName> = self.view.members.keys().cloned().collect();
        for pod in pods {
            if pod == self.config.pod {
                continue;
            }
            let Some(cached) = self.view.members.get(&pod).cloned() else {
                continue;
            };
            let expiry = self.view.expiry(&cached);
            let liveness = match &cached.state.holder {
                Some(holder) => self.liveness(holder, cached.state.version, now),
                // The pod may come back to a released Lease, or delete it itself.
                None if now < expiry => Liveness::Alive(expiry),
                None => Liveness::Dead,
            };
            let key = LeaseKey::Member(pod.clone());
            if let Liveness::Alive(until) = liveness {
                self.wake_by(until);
            } else if self.view.references_pod(&pod) {
                let turn = expiry + self.retry_period() / EXPIRY_STAGGER * rank;
                if now < turn {
                    self.wake_by(turn);
                } else if liveness == Liveness::Expired && self.can_request(&key, now) {
                    self.send_write(key, RequestKind::ExpireMember, None, now);
                }
            } else if rank == 0 && self.can_request(&key, now) && self.has_capacity() {
                self.send_request(key, RequestKind::Delete, now);
            }
        }
    }

    /// Returns whether this process holds the lowest shard that is held at all.
    fn is_gc_leader(&mut self, now: Instant) -> bool {
        for shard in 0..self.shard_count {
            let shard_id = ShardId {
                shard_count: self.shard_count,
                shard,
            };
            let Some(cached) = self.view.shards.get(&shard_id) else {
                continue;
            };
            let version = cached.state.version;
            let Some(holder) = cached.state.holder.clone() else {
                continue;
            };
            if holder == self.identity {
                return self.held.contains_key(&shard_id);
            }
            if matches!(self.liveness(&holder, version, now), Liveness::Alive(_)) {
                return false;
            }
        }
        false
    }

    /// Deletes shard Leases of former layouts that nobody works in any more.
    fn delete_stale_shard_leases(&mut self, now: Instant) {
        let shard_count = self.shard_count;
        let others: Vec<(ShardId, u64, Option<MemberId>)> = self
            .view
            .shards
            .iter()
            .filter(|(shard_id, _)| {
                shard_id.shard_count != shard_count && !self.held.contains_key(shard_id)
            })
            .map(|(shard_id, cached)| {
                (*shard_id, cached.state.version, cached.state.holder.clone())
            })
            .collect();
        for (shard_id, version, holder) in others {
            let free = match holder {
                Some(holder) => self.liveness(&holder, version, now) == Liveness::Dead,
                None => true,
            };
            let key = LeaseKey::Shard(shard_id);
            if free && self.can_request(&key, now) && self.has_capacity() {
                self.send_request(key, RequestKind::Delete, now);
            }
        }
    }

    /// Returns whether another claim or deletion may be sent.
    fn has_capacity(&self) -> bool {
        self.count_pending(&[RequestKind::Claim, RequestKind::Delete]) < MAX_PENDING_REQUESTS
    }
}
