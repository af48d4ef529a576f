//! What the dead and former layouts leave behind.

use tokio::time::Instant;

use super::{Core, Kind, MOST_CALLS};
use crate::fleet::name::{Id, Name, Place};
use crate::fleet::view::Life;

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
        let pods: Vec<Id> = self.view.members.keys().cloned().collect();
        for pod in pods {
            if pod == self.settings.pod {
                continue;
            }
            let Some(seen) = self.view.members.get(&pod).cloned() else {
                continue;
            };
            let expiry = self.view.expiry(&seen);
            let life = match &seen.fact.holder {
                Some(holder) => self.life(holder, seen.fact.version, now),
                // Whoever gave it up may come back to it, or delete it himself.
                None if now < expiry => Life::Lives(expiry),
                None => Life::Over,
            };
            let name = Name::Member(pod.clone());
            if let Life::Lives(until) = life {
                self.wake_at(until);
            } else if self.view.names(&pod) {
                let turn = expiry + self.retry_period() / STAGGER * rank;
                if now < turn {
                    self.wake_at(turn);
                } else if life == Life::Expired && self.may_call(&name, now) {
                    self.write(name, Kind::Bury, None, now);
                }
            } else if rank == 0 && self.may_call(&name, now) && self.is_idle() {
                self.call(name, Kind::Delete, now);
            }
        }
    }

    /// Whether this process holds the first shard of the wanted layout that is held at all.
    fn has_first_seat(&mut self, now: Instant) -> bool {
        for shard in 0..self.wanted {
            let place = Place {
                of: self.wanted,
                shard,
            };
            let Some(seen) = self.view.shards.get(&place) else {
                continue;
            };
            let version = seen.fact.version;
            let Some(holder) = seen.fact.holder.clone() else {
                continue;
            };
            if holder == self.me {
                return self.holds.contains_key(&place);
            }
            if matches!(self.life(&holder, version, now), Life::Lives(_)) {
                return false;
            }
        }
        false
    }

    /// Deletes the Leases of layouts that nobody works on any more.
    fn clear_layouts(&mut self, now: Instant) {
        let wanted = self.wanted;
        let others: Vec<(Place, u64, Option<Id>)> = self
            .view
            .shards
            .iter()
            .filter(|(place, _)| place.of != wanted && !self.holds.contains_key(place))
            .map(|(place, seen)| (*place, seen.fact.version, seen.fact.holder.clone()))
            .collect();
        for (place, version, holder) in others {
            let free = match holder {
                Some(holder) => self.life(&holder, version, now) == Life::Over,
                None => true,
            };
            let name = Name::Shard(place);
            if free && self.may_call(&name, now) && self.is_idle() {
                self.call(name, Kind::Delete, now);
            }
        }
    }

    fn is_idle(&self) -> bool {
        self.calls_of(&[Kind::Claim, Kind::Delete]) < MOST_CALLS
    }
}
