//! What a process has seen of the Leases of its fleet, and what follows about who lives.
//!
//! It is fed from three sides: lists, the changes that follow them, and the answers to this
//! process's own calls, which run ahead of the changes. Of two records of a Lease the one with
//! the higher version counts. How far the changes have come is known, so that nothing is
//! concluded from what they have not shown yet.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tokio::time::Instant;

use super::names::{LeaseKey, LeaseState, MemberId, PodName, ShardId, pod_of};
use crate::lease::timing::MAX_LEASE_DURATION;

/// A record, and since when this process has seen it in this very version.
#[derive(Clone, Debug)]
pub(crate) struct CachedLease {
    pub(crate) state: LeaseState,
    pub(crate) since: Instant,
}

/// Who held a shard's Lease when it was deleted, which that process may not know yet.
#[derive(Clone, Debug)]
pub(crate) struct DeletedShardLease {
    pub(crate) holder: MemberId,
    since: Instant,
}

/// What is known of the process with some identity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Liveness {
    /// It may work, at least until then.
    Alive(Instant),
    /// Its time has passed, as far as this process sees. That must be written down, over the
    /// version that was seen, before anybody builds on it: a view may be old.
    Expired,
    /// It does not work any more.
    Dead,
}

#[derive(Debug)]
pub(crate) struct LeaseView {
    /// How long a record must have been seen before its holder's time is over, at least.
    duration: Duration,
    pub(crate) members: BTreeMap<PodName, CachedLease>,
    pub(crate) shards: BTreeMap<ShardId, CachedLease>,
    pub(crate) deleted_shards: BTreeMap<ShardId, DeletedShardLease>,
    /// Holders without a Lease of their own, and since when this process knows.
    missing_members: BTreeMap<MemberId, Instant>,
    /// How far the changes have come.
    pub(crate) watched_version: u64,
    /// An answer that the changes have not come to yet, and when it came.
    awaited_write: Option<(u64, Instant)>,
    /// The latest version that a call was answered with.
    latest_written: u64,
    pub(crate) listed: bool,
}

impl LeaseView {
    pub(crate) fn new(duration: Duration) -> Self {
        Self {
            duration,
            members: BTreeMap::new(),
            shards: BTreeMap::new(),
            deleted_shards: BTreeMap::new(),
            missing_members: BTreeMap::new(),
            watched_version: 0,
            awaited_write: None,
            latest_written: 0,
            listed: false,
        }
    }

    pub(crate) fn get(&self, key: &LeaseKey) -> Option<&CachedLease> {
        match key {
            LeaseKey::Member(pod) => self.members.get(pod),
            LeaseKey::Shard(shard_id) => self.shards.get(shard_id),
        }
    }

    /// Takes note of all that there is.
    pub(crate) fn apply_list(
        &mut self,
        states: Vec<(LeaseKey, LeaseState)>,
        version: u64,
        now: Instant,
    ) {
        let listed: BTreeSet<&LeaseKey> = states.iter().map(|(key, _)| key).collect();
        // A list that is behind what was seen is of a server that has lost its memory.
        let server_lost_state = version < self.watched_version;
        let keys = self.members.keys().cloned().map(LeaseKey::Member);
        let keys = keys.chain(self.shards.keys().copied().map(LeaseKey::Shard));
        let removed: Vec<LeaseKey> = keys
            .filter(|key| !listed.contains(key))
            .filter(|key| {
                server_lost_state || self.get(key).is_some_and(|s| s.state.version <= version)
            })
            .collect();
        for key in removed {
            self.remove(&key, now);
        }
        for (key, state) in states {
            let is_newer = self.get(&key).is_none_or(|cached| {
                let kept = cached.state.version;
                kept < state.version || server_lost_state && kept != state.version
            });
            if is_newer {
                self.insert(key, state, now);
            }
        }
        self.watched_version = version;
        self.listed = true;
        if server_lost_state {
            (self.latest_written, self.awaited_write) = (version, None);
        }
        self.settle_awaited_write(now);
    }

    /// Takes note of a change that followed. Whether it is a renewal and nothing else.
    pub(crate) fn apply_event(&mut self, key: LeaseKey, state: LeaseState, now: Instant) -> bool {
        self.watched_version = self.watched_version.max(state.version);
        let settled = self.settle_awaited_write(now);
        self.upsert(key, state, now) && !settled
    }

    /// Takes note of a deletion that followed.
    pub(crate) fn apply_deletion(&mut self, key: &LeaseKey, now: Instant) {
        // What an answer told and the changes have not shown came later than the deletion.
        if self
            .get(key)
            .is_some_and(|s| s.state.version <= self.watched_version)
        {
            self.remove(key, now);
        }
    }

    /// Takes note of what a call was answered with, as soon as the answer came.
    pub(crate) fn apply_response(&mut self, key: LeaseKey, state: LeaseState, now: Instant) {
        self.latest_written = self.latest_written.max(state.version);
        self.settle_awaited_write(now);
        self.upsert(key, state, now);
    }

    /// Takes note that there was no such Lease, as a look told that began at `sent`.
    pub(crate) fn apply_missing(&mut self, key: &LeaseKey, sent: Instant, now: Instant) {
        if self.get(key).is_some_and(|cached| cached.since <= sent) {
            self.remove(key, now);
        }
    }

    /// Takes note that this process has deleted a Lease.
    pub(crate) fn apply_own_deletion(&mut self, key: &LeaseKey) {
        match key {
            LeaseKey::Member(pod) => drop(self.members.remove(pod)),
            LeaseKey::Shard(shard_id) => drop(self.shards.remove(shard_id)),
        }
    }

    /// Since when the changes owe this process a write of its own.
    pub(crate) fn awaiting_own_write_since(&self) -> Option<Instant> {
        self.awaited_write.map(|(_, since)| since)
    }

    /// Looks what the changes owe. Whether they have paid something.
    fn settle_awaited_write(&mut self, now: Instant) -> bool {
        let awaited = self.awaited_write;
        if awaited.is_none_or(|(version, _)| version <= self.watched_version) {
            self.awaited_write =
                (self.latest_written > self.watched_version).then_some((self.latest_written, now));
        }
        awaited.is_some() && self.awaited_write != awaited
    }

    fn upsert(&mut self, key: LeaseKey, state: LeaseState, now: Instant) -> bool {
        let routine = match self.get(&key) {
            // One of our own writes to a shard's Lease has come back.
            Some(cached) if cached.state.version >= state.version => {
                return cached.state.version > state.version || matches!(key, LeaseKey::Member(_));
            }
            Some(cached) => {
                matches!(key, LeaseKey::Member(_))
                    && cached.state.holder == state.holder
                    && cached.state.desired_shards == state.desired_shards
            }
            None => false,
        };
        self.insert(key, state, now);
        routine
    }

    fn insert(&mut self, key: LeaseKey, state: LeaseState, now: Instant) {
        let cached = CachedLease { state, since: now };
        match key {
            LeaseKey::Member(pod) => drop(self.members.insert(pod, cached)),
            LeaseKey::Shard(shard_id) => {
                self.deleted_shards.remove(&shard_id);
                self.shards.insert(shard_id, cached);
            }
        }
    }

    fn remove(&mut self, key: &LeaseKey, now: Instant) {
        match key {
            LeaseKey::Member(pod) => drop(self.members.remove(pod)),
            LeaseKey::Shard(shard_id) => {
                let holder = self
                    .shards
                    .remove(shard_id)
                    .and_then(|cached| cached.state.holder);
                if let Some(holder) = holder {
                    let deleted_lease = DeletedShardLease { holder, since: now };
                    self.deleted_shards.insert(*shard_id, deleted_lease);
                }
            }
        }
    }

    /// When a member's time is over unless it is seen to renew.
    pub(crate) fn expiry(&self, cached: &CachedLease) -> Instant {
        cached.since
            + cached
                .state
                .duration
                .min(MAX_LEASE_DURATION)
                .max(self.duration)
    }

    /// What is known of the process `id`, as a record of the version `claimed` names it.
    pub(crate) fn liveness(&mut self, id: &MemberId, claimed: u64, now: Instant) -> Liveness {
        if claimed > self.watched_version {
            // Its own Lease may not have been seen yet, as it came before what it has claimed.
            return Liveness::Alive(now + self.duration);
        }
        let Some(cached) = self.members.get(pod_of(id)) else {
            let since = *self.missing_members.entry(id.clone()).or_insert(now);
            let until = since + self.duration;
            return if now >= until {
                Liveness::Dead
            } else {
                Liveness::Alive(until)
            };
        };
        self.missing_members.remove(id);
        let until = self.expiry(cached);
        if cached.state.holder.as_ref() != Some(id) {
            // Nobody takes a member's Lease before its holder's time is over.
            Liveness::Dead
        } else if now >= until {
            Liveness::Expired
        } else {
            Liveness::Alive(until)
        }
    }

    /// When a deleted Lease is anybody's, even if its last owner lives: it has found out.
    pub(crate) fn reserved_until(&self, deleted: &DeletedShardLease) -> Instant {
        deleted.since + self.duration * 2
    }

    /// Forgets whom no record names any more.
    pub(crate) fn prune(&mut self, now: Instant) {
        let duration = self.duration;
        self.deleted_shards
            .retain(|_, deleted| now < deleted.since + duration * 2);
        if !self.missing_members.is_empty() {
            let (shards, deleted_shards) = (&self.shards, &self.deleted_shards);
            self.missing_members.retain(|id, _| {
                shards
                    .values()
                    .any(|cached| cached.state.holder.as_ref() == Some(id))
                    || deleted_shards.values().any(|deleted| deleted.holder == *id)
            });
        }
    }

    /// Whether a shard's Lease names a process of `pod`.
    pub(crate) fn references_pod(&self, pod: &str) -> bool {
        let held = self
            .shards
            .values()
            .filter_map(|cached| cached.state.holder.as_ref());
        held.chain(self.deleted_shards.values().map(|deleted| &deleted.holder))
            .any(|holder| pod_of(holder) == pod)
    }
}

#[cfg(test)]
mod tests;
