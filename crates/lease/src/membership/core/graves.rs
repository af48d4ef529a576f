//! What the dead and former layouts leave behind.

use tokio::time::Instant;

use super::{Core, Kind, MOST_CALLS};
use crate::membership::names::{LeaseKey, MemberId, ShardId};
use crate::membership::view::Liveness;

/// Members see that another is dead at the same moment; each waits for this share of a retry
/// period longer than the one before it.
const STAGGER: u32 = 8;

impl Core {
    pub(super) fn keep_graves(&mut self, now: Instant) {
        if self.term.is_none() || self.stopping.is_some() {
            return;
        }
        let rank = self
            .planners
            .iter()
            .position(|id| *id == self.me)
            .unwrap_or(0);
        let rank = u32::try_from(rank).unwrap_or(STAGGER).min(STAGGER);
        self.bury(rank, now);
        if self.has_first_seat(now) {
            self.clear_layouts(now);
        }
    }

    /// Writes down that the time of members has passed, so that their shards can be taken, and
    /// deletes the Leases of those that no shard's Lease names any more.
    fn bury(&mut self, rank: u32, now: Instant) {
        let pods: Vec<MemberId> = self.view.members.keys().cloned().collect();
        for pod in pods {
            if pod == self.settings.pod {
                continue;
            }
            let Some(seen) = self.view.members.get(&pod).cloned() else {
                continue;
            };
            let expiry = self.view.expiry(&seen);
            let liveness = match &seen.state.holder {
                Some(holder) => self.liveness(holder, seen.state.version, now),
                // Whoever gave it up may come back to it, or delete it himself.
                None if now < expiry => Liveness::Alive(expiry),
                None => Liveness::Dead,
            };
            let key = LeaseKey::Member(pod.clone());
            if let Liveness::Alive(until) = liveness {
                self.wake_at(until);
            } else if self.view.references_pod(&pod) {
                let turn = expiry + self.retry_period() / STAGGER * rank;
                if now < turn {
                    self.wake_at(turn);
                } else if liveness == Liveness::Expired && self.may_call(&key, now) {
                    self.write(key, Kind::Bury, None, now);
                }
            } else if rank == 0 && self.may_call(&key, now) && self.is_idle() {
                self.call(key, Kind::Delete, now);
            }
        }
    }

    /// Whether this process holds the first shard of the wanted layout that is held at all.
    fn has_first_seat(&mut self, now: Instant) -> bool {
        for shard in 0..self.wanted {
            let shard_id = ShardId {
                shard_count: self.wanted,
                shard,
            };
            let Some(seen) = self.view.shards.get(&shard_id) else {
                continue;
            };
            let version = seen.state.version;
            let Some(holder) = seen.state.holder.clone() else {
                continue;
            };
            if holder == self.me {
                return self.holds.contains_key(&shard_id);
            }
            if matches!(self.liveness(&holder, version, now), Liveness::Alive(_)) {
                return false;
            }
        }
        false
    }

    /// Deletes the Leases of layouts that nobody works on any more.
    fn clear_layouts(&mut self, now: Instant) {
        let wanted = self.wanted;
        let others: Vec<(ShardId, u64, Option<MemberId>)> = self
            .view
            .shards
            .iter()
            .filter(|(shard_id, _)| {
                shard_id.shard_count != wanted && !self.holds.contains_key(shard_id)
            })
            .map(|(shard_id, seen)| (*shard_id, seen.state.version, seen.state.holder.clone()))
            .collect();
        for (shard_id, version, holder) in others {
            let free = match holder {
                Some(holder) => self.liveness(&holder, version, now) == Liveness::Dead,
                None => true,
            };
            let key = LeaseKey::Shard(shard_id);
            if free && self.may_call(&key, now) && self.is_idle() {
                self.call(key, Kind::Delete, now);
            }
        }
    }

    fn is_idle(&self) -> bool {
        self.calls_of(&[Kind::Claim, Kind::Delete]) < MOST_CALLS
    }
}
