//! Shards of a member: claiming, granting, releasing and rebalancing them.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

use super::{Command, MAX_PENDING_REQUESTS, MembershipState, RequestKind};
use crate::membership::assignment::assign_shards;
use crate::membership::names::{LeaseKey, MemberId, ShardId};
use crate::membership::view::Liveness;
use crate::membership::{ShardAssignment, names};

/// Retry periods that the membership must be stable before a shard is moved for balance alone.
const STABLE_PERIODS: u32 = 2;
/// Lease durations after which a shard lease counts as healthy.
const HEALTHY_DURATIONS: u32 = 2;
/// Maximum backoff, in retry periods, for a shard whose leases keep being dropped.
const MAX_BACKOFF_PERIODS: u32 = 8;

/// Shard lease that was granted and has not been dropped.
#[derive(Clone, Copy, Debug)]
pub(super) struct HeldShard {
    pub(super) state: HoldState,
    since: Instant,
}

/// State of a granted shard lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum HoldState {
    Held,
    /// The caller was asked to release it.
    ReleaseRequested,
    Lost,
}

/// Backoff of a shard whose lease was dropped without a request.
#[derive(Clone, Copy, Debug)]
pub(super) struct ShardBackoff {
    until: Instant,
    length: Duration,
}

impl MembershipState {
    /// Releases a shard whose work has ended, with backoff if nobody had asked for that.
    pub(super) fn on_dropped(&mut self, shard_id: ShardId, now: Instant) {
        let Some(held_shard) = self.held.remove(&shard_id) else {
            return;
        };
        if held_shard.state == HoldState::Lost {
            return;
        }
        self.releasing.insert(shard_id);
        if held_shard.state == HoldState::ReleaseRequested {
            return;
        }
        let period = self.retry_period();
        let healthy_after = self.config.timing.duration() * HEALTHY_DURATIONS;
        let before = self.shard_backoffs.get(&shard_id);
        let length = before
            .filter(|_| now < held_shard.since + healthy_after)
            .map_or(period, |backoff| {
                (backoff.length * 2).min(period * MAX_BACKOFF_PERIODS)
            });
        let until = now + length;
        self.shard_backoffs
            .insert(shard_id, ShardBackoff { until, length });
    }

    /// Drives the shards of this member towards the assignment.
    pub(super) fn drive_shards(&mut self, now: Instant) {
        self.revoke_lost_shards();
        self.recompute_assignment();
        let foreign = self.earliest_foreign_claim(now);
        if self.term.is_some() {
            self.grant_or_release_own(foreign, now);
            self.request_releases(now);
            if self.shutdown.is_none() {
                self.claim_shards(foreign.is_some(), now);
            }
        }
    }

    /// Returns whether this process, as a member, is the holder of a shard's Lease.
    fn is_own_shard(&self, shard_id: ShardId) -> bool {
        let cached = self.view.shards.get(&shard_id);
        self.term.is_some()
            && cached.is_some_and(|s| s.state.holder.as_ref() == Some(&self.identity))
    }

    /// Revokes the shard leases that this process does not own any more.
    fn revoke_lost_shards(&mut self) {
        let shard_ids: Vec<ShardId> = self.held.keys().copied().collect();
        for shard_id in shard_ids {
            if self.is_own_shard(shard_id) {
                continue;
            }
            if let Some(held_shard) = self.held.get_mut(&shard_id)
                && held_shard.state != HoldState::Lost
            {
                held_shard.state = HoldState::Lost;
                self.commands.push(Command::Revoke(shard_id));
            }
        }
    }

    /// Recomputes the assignment when its inputs have changed.
    fn recompute_assignment(&mut self) {
        let mut owners: BTreeMap<u16, MemberId> = BTreeMap::new();
        for (shard_id, cached) in self.view.shards.range(layout(self.shard_count)) {
            if let Some(holder) = &cached.state.holder {
                owners.insert(shard_id.shard, holder.clone());
            }
        }
        for (shard_id, deleted) in self.view.deleted_shards.range(layout(self.shard_count)) {
            owners.insert(shard_id.shard, deleted.holder.clone());
        }
        owners.retain(|_, owner| self.eligible_members.contains(owner));
        let assigned_for = Some((self.eligible_members.clone(), owners, self.shard_count));
        if assigned_for != self.assigned_for {
            if let Some((eligible_members, owners, shard_count)) = &assigned_for {
                self.assigned = assign_shards(eligible_members, *shard_count, owners);
            }
            self.assigned_for = assigned_for;
        }
    }

    /// Returns the earliest claim to a shard of another layout whose owner may be alive.
    fn earliest_foreign_claim(&mut self, now: Instant) -> Option<u64> {
        let others = self
            .view
            .shards
            .iter()
            .filter(|(shard_id, _)| shard_id.shard_count != self.shard_count);
        let mut claims: Vec<(u64, MemberId)> = others
            .filter_map(|(_, cached)| Some((cached.state.version, cached.state.holder.clone()?)))
            .collect();
        let deleted_shards = self
            .view
            .deleted_shards
            .iter()
            .filter(|(shard_id, _)| shard_id.shard_count != self.shard_count);
        claims.extend(deleted_shards.map(|(_, deleted)| (0, deleted.holder.clone())));
        let has_foreign_hold = self
            .held
            .keys()
            .any(|shard_id| shard_id.shard_count != self.shard_count);
        claims.retain(|(version, holder)| self.liveness(holder, *version, now) != Liveness::Dead);
        let earliest = claims.into_iter().map(|(version, _)| version).min();
        if has_foreign_hold { Some(0) } else { earliest }
    }

    /// Grants shards that this process has acquired, and releases those that it must not keep.
    fn grant_or_release_own(&mut self, foreign: Option<u64>, now: Instant) {
        self.shard_backoffs
            .retain(|_, backoff| now < backoff.until + backoff.length * 2);
        let own: Vec<(ShardId, u64)> = self
            .view
            .shards
            .iter()
            .filter(|(_, cached)| cached.state.holder.as_ref() == Some(&self.identity))
            .map(|(shard_id, cached)| (*shard_id, cached.state.version))
            .collect();
        self.releasing
            .retain(|shard_id| own.iter().any(|(own, _)| own == shard_id));
        for (shard_id, version) in own {
            if self.held.contains_key(&shard_id) {
                continue;
            }
            let later = foreign.is_some_and(|foreign| foreign < version);
            let backing_off = self
                .shard_backoffs
                .get(&shard_id)
                .is_some_and(|backoff| now < backoff.until);
            let unwanted = shard_id.shard_count != self.shard_count || self.shutdown.is_some();
            if unwanted || backing_off || self.releasing.contains(&shard_id) {
                self.release_shard(shard_id, now);
            } else if self.view.watched_version < version {
                // The watch has not shown the claim yet.
            } else if later {
                self.release_shard(shard_id, now);
            } else {
                let (state, since) = (HoldState::Held, now);
                self.held.insert(shard_id, HeldShard { state, since });
                self.commands.push(Command::Grant(shard_id));
            }
        }
    }

    /// Writes the release of a shard.
    fn release_shard(&mut self, shard_id: ShardId, now: Instant) {
        let key = LeaseKey::Shard(shard_id);
        if self.can_request(&key, now) {
            // Even without a response, others may see the shard as free from now on.
            self.releasing.insert(shard_id);
            self.last_handover = Some((shard_id, now));
            self.send_write(key, RequestKind::Release, None, now);
        }
    }

    /// Requests the release of shards of another layout, of all shards on shutdown, and of one
    /// shard at a time that is assigned to another member.
    fn request_releases(&mut self, now: Instant) {
        let mut requested = Vec::new();
        for (shard_id, held_shard) in &mut self.held {
            if held_shard.state == HoldState::Held
                && (shard_id.shard_count != self.shard_count || self.shutdown.is_some())
            {
                held_shard.state = HoldState::ReleaseRequested;
                requested.push(*shard_id);
            }
        }
        if requested.is_empty() {
            requested.extend(self.next_rebalance(now));
        }
        self.commands
            .extend(requested.into_iter().map(Command::RequestRelease));
    }

    /// Picks the next shard to hand over for balance.
    fn next_rebalance(&mut self, now: Instant) -> Option<ShardId> {
        let period = self.retry_period();
        let is_misassigned = |shard_id: &ShardId, held_shard: &HeldShard| {
            held_shard.state == HoldState::Held
                && self
                    .assigned
                    .get(&shard_id.shard)
                    .is_some_and(|owner| *owner != self.identity)
        };
        let mut held = self.held.iter();
        let shard_id = *held
            .find(|(shard_id, held_shard)| is_misassigned(shard_id, held_shard))?
            .0;
        let stable_at = self.stable_since + period * STABLE_PERIODS;
        if now < stable_at {
            self.wake_by(stable_at);
            return None;
        }
        let release_in_progress = self
            .held
            .values()
            .any(|held_shard| held_shard.state == HoldState::ReleaseRequested);
        if release_in_progress || !self.releasing.is_empty() {
            return None;
        }
        // The shard that was handed over last must have reached its new owner first.
        if let Some((last, since)) = self.last_handover {
            let cached = self.view.shards.get(&last);
            let free = last.shard_count == self.shard_count
                && cached.is_some_and(|s| s.state.holder.is_none());
            if free && now < since + period {
                self.wake_by(since + period);
                return None;
            }
        }
        if let Some(held_shard) = self.held.get_mut(&shard_id) {
            held_shard.state = HoldState::ReleaseRequested;
        }
        Some(shard_id)
    }

    /// Claims unowned shards that are assigned to this process, and own shards whose Lease was
    /// deleted.
    fn claim_shards(&mut self, foreign: bool, now: Instant) {
        let own: Vec<ShardId> = self
            .view
            .deleted_shards
            .iter()
            .filter(|(shard_id, deleted)| {
                deleted.holder == self.identity && !self.held.contains_key(shard_id)
            })
            .map(|(shard_id, _)| *shard_id)
            .collect();
        for shard_id in own {
            self.try_claim(shard_id, now);
        }
        if foreign {
            return;
        }
        for shard in 0..self.shard_count {
            if self.assigned.get(&shard) == Some(&self.identity) {
                let shard_count = self.shard_count;
                self.try_claim(ShardId { shard_count, shard }, now);
            }
        }
    }

    /// Claims a shard unless it is owned or in backoff.
    fn try_claim(&mut self, shard_id: ShardId, now: Instant) {
        if self.held.contains_key(&shard_id) || !self.is_unowned(shard_id, now) {
            return;
        }
        let backoff_until = self
            .shard_backoffs
            .get(&shard_id)
            .map(|backoff| backoff.until);
        let after = backoff_until
            .max(self.claims_backoff)
            .filter(|after| now < *after);
        if let Some(after) = after {
            return self.wake_by(after);
        }
        let key = LeaseKey::Shard(shard_id);
        let busy =
            self.count_pending(&[RequestKind::Claim, RequestKind::Delete]) >= MAX_PENDING_REQUESTS;
        if !busy && self.can_request(&key, now) {
            self.send_write(key, RequestKind::Claim, Some(self.identity.clone()), now);
        }
    }

    /// Returns whether no process that may be alive owns the shard.
    fn is_unowned(&mut self, shard_id: ShardId, now: Instant) -> bool {
        if let Some(cached) = self.view.shards.get(&shard_id) {
            let version = cached.state.version;
            let Some(holder) = cached.state.holder.clone() else {
                return true;
            };
            return holder != self.identity
                && self.liveness(&holder, version, now) == Liveness::Dead;
        }
        let Some(deleted) = self.view.deleted_shards.get(&shard_id).cloned() else {
            return true;
        };
        let until = self.view.reserved_until(&deleted);
        self.wake_by(until);
        deleted.holder == self.identity
            || now >= until
            || self.liveness(&deleted.holder, 0, now) == Liveness::Dead
    }

    /// Returns the number of live members and what is known of each shard of the layout.
    pub(crate) fn assignments(&self) -> (usize, Vec<ShardAssignment>) {
        let assignment = |shard| {
            let shard_id = ShardId {
                shard_count: self.shard_count,
                shard,
            };
            let holder = self
                .view
                .shards
                .get(&shard_id)
                .and_then(|cached| cached.state.holder.clone());
            let is_current = |holder: &MemberId| {
                let member = self.view.members.get(names::pod_of(holder));
                member.is_some_and(|cached| cached.state.holder.as_ref() == Some(holder))
            };
            let held_shard = self.held.get(&shard_id);
            let held = held_shard.is_some_and(|held_shard| held_shard.state != HoldState::Lost);
            ShardAssignment {
                shard,
                holder: holder.filter(is_current).map(|holder| holder.to_string()),
                held,
                pending: !held
                    && self.term.is_some()
                    && self.assigned.get(&shard) == Some(&self.identity),
            }
        };
        (
            self.live_members,
            (0..self.shard_count).map(assignment).collect(),
        )
    }

    /// Returns the configured number of shards.
    pub(crate) fn shard_count(&self) -> u16 {
        self.shard_count
    }
}

/// Returns the range of all shards of a layout.
fn layout(shard_count: u16) -> std::ops::Range<ShardId> {
    let first = |shard_count| ShardId {
        shard_count,
        shard: 0,
    };
    first(shard_count)..first(shard_count.saturating_add(1))
}
