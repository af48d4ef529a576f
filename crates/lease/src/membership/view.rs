//! View of a fleet's Leases, and of which members are alive.
//!
//! It is fed by lists, by watch events, and by responses to this process's own requests, which run
//! ahead of the watch. Of two states of a Lease, the higher version wins. The view knows how far
//! the watch has come, and concludes nothing from what the watch has not shown yet.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tokio::time::Instant;

use super::names::{LeaseKey, LeaseState, MemberId, PodName, ShardId, pod_of};
use crate::lease::timing::MAX_LEASE_DURATION;

/// State of a Lease, and since when this process has seen this version.
#[derive(Clone, Debug)]
pub(crate) struct CachedLease {
    pub(crate) state: LeaseState,
    pub(crate) since: Instant,
}

/// Last holder of a deleted shard Lease, who may not know of the deletion yet.
#[derive(Clone, Debug)]
pub(crate) struct DeletedShardLease {
    pub(crate) holder: MemberId,
    since: Instant,
}

/// Whether the process with an identity may still work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Liveness {
    /// It may work, at least until then.
    Alive(Instant),
    /// Its Lease has expired as far as this process sees. That must be written, over the version
    /// that was seen, before anyone relies on it: a view may be stale.
    Expired,
    /// It does not work any more.
    Dead,
}

/// All Leases of a fleet, as this process has seen them.
#[derive(Debug)]
pub(crate) struct LeaseView {
    /// Minimum time that a record must go unchanged before it expires.
    duration: Duration,
    pub(crate) members: BTreeMap<PodName, CachedLease>,
    pub(crate) shards: BTreeMap<ShardId, CachedLease>,
    pub(crate) deleted_shards: BTreeMap<ShardId, DeletedShardLease>,
    /// Holders without a member Lease, and since when this process knows.
    missing_members: BTreeMap<MemberId, Instant>,
    /// Version up to which the watch has come.
    pub(crate) watched_version: u64,
    /// Version of an own write that the watch has not shown yet, and since when it is due.
    awaited_write: Option<(u64, Instant)>,
    /// Highest version in a response.
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

    /// Returns the cached state of a Lease.
    pub(crate) fn get(&self, key: &LeaseKey) -> Option<&CachedLease> {
        match key {
            LeaseKey::Member(pod) => self.members.get(pod),
            LeaseKey::Shard(shard_id) => self.shards.get(shard_id),
        }
    }

    /// Applies a list of all Leases.
    pub(crate) fn apply_list(
        &mut self,
        states: Vec<(LeaseKey, LeaseState)>,
        version: u64,
        now: Instant,
    ) {
        let listed: BTreeSet<&LeaseKey> = states.iter().map(|(key, _)| key).collect();
        // A list older than what was seen comes from a server that has lost state.
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

    /// Applies a watch event. Returns whether it is a renewal and nothing else.
    pub(crate) fn apply_event(&mut self, key: LeaseKey, state: LeaseState, now: Instant) -> bool {
        self.watched_version = self.watched_version.max(state.version);
        let settled = self.settle_awaited_write(now);
        self.upsert(key, state, now) && !settled
    }

    /// Applies a deletion that the watch has shown.
    pub(crate) fn apply_deletion(&mut self, key: &LeaseKey, now: Instant) {
        // A newer state from a response is later than the deletion.
        if self
            .get(key)
            .is_some_and(|s| s.state.version <= self.watched_version)
        {
            self.remove(key, now);
        }
    }

    /// Applies the state that a response contains, as soon as it has arrived.
    pub(crate) fn apply_response(&mut self, key: LeaseKey, state: LeaseState, now: Instant) {
        self.latest_written = self.latest_written.max(state.version);
        self.settle_awaited_write(now);
        self.upsert(key, state, now);
    }

    /// Applies the response that there is no such Lease, to a request sent at `sent`.
    pub(crate) fn apply_missing(&mut self, key: &LeaseKey, sent: Instant, now: Instant) {
        if self.get(key).is_some_and(|cached| cached.since <= sent) {
            self.remove(key, now);
        }
    }

    /// Applies a deletion by this process.
    pub(crate) fn apply_own_deletion(&mut self, key: &LeaseKey) {
        match key {
            LeaseKey::Member(pod) => drop(self.members.remove(pod)),
            LeaseKey::Shard(shard_id) => drop(self.shards.remove(shard_id)),
        }
    }

    /// Returns since when the watch has owed this process one of its own writes.
    pub(crate) fn awaiting_own_write_since(&self) -> Option<Instant> {
        self.awaited_write.map(|(_, since)| since)
    }

    /// Updates the own write that the watch still owes. Returns whether one has been shown.
    fn settle_awaited_write(&mut self, now: Instant) -> bool {
        let awaited = self.awaited_write;
        if awaited.is_none_or(|(version, _)| version <= self.watched_version) {
            self.awaited_write =
                (self.latest_written > self.watched_version).then_some((self.latest_written, now));
        }
        awaited.is_some() && self.awaited_write != awaited
    }

    /// Inserts a state unless a newer one is cached. Returns whether it changes nothing but the
    /// renewal.
    fn upsert(&mut self, key: LeaseKey, state: LeaseState, now: Instant) -> bool {
        let routine = match self.get(&key) {
            // The watch shows this process's own write to a shard's Lease.
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

    /// Inserts a state, seen since now.
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

    /// Removes a Lease and remembers the last holder of a shard.
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

    /// Returns when a member's Lease expires unless it is renewed.
    pub(crate) fn expiry(&self, cached: &CachedLease) -> Instant {
        cached.since
            + cached
                .state
                .duration
                .min(MAX_LEASE_DURATION)
                .max(self.duration)
    }

    /// Returns the liveness of the process `id`, which a record of version `claimed` names.
    pub(crate) fn liveness(&mut self, id: &MemberId, claimed: u64, now: Instant) -> Liveness {
        if claimed > self.watched_version {
            // The watch may not have shown the member's own Lease yet, which was written before the
            // claim.
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
            // Nobody takes over a member's Lease before it has expired.
            Liveness::Dead
        } else if now >= until {
            Liveness::Expired
        } else {
            Liveness::Alive(until)
        }
    }

    /// Returns when a deleted shard Lease may be claimed even if its last owner is alive: it must
    /// have noticed by then.
    pub(crate) fn reserved_until(&self, deleted: &DeletedShardLease) -> Instant {
        deleted.since + self.duration * 2
    }

    /// Removes entries that no record names any more.
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

    /// Returns whether a shard's Lease names a process of `pod`.
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
