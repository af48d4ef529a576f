//! Heartbeat of a member: acquiring, renewing, losing and finally releasing its own Lease.

use std::collections::BTreeSet;
use std::sync::Arc;

use tokio::time::Instant;

use super::shards::HoldState;
use super::{
    Command, IDLE_WAKE_INTERVAL, MAX_FORMER_IDENTITIES, MembershipState, RequestKind, new_identity,
};
use crate::membership::names::{LeaseKey, MemberId};
use crate::membership::view::Liveness;

/// Number of retry periods that the release on shutdown may take; then the Leases are left to
/// expire.
const RELEASE_PERIODS: u32 = 2;

/// Term of a membership, from one renewal to the next.
#[derive(Clone, Copy, Debug)]
pub(super) struct MembershipTerm {
    /// When this process must stop, unless it has renewed by then.
    pub(super) deadline: Instant,
    renew_at: Instant,
}

/// Shutdown in progress.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Shutdown {
    /// Since when no work is in flight.
    idle_since: Option<Instant>,
}

impl MembershipState {
    /// Returns the key of this process's own Lease.
    fn own_key(&self) -> LeaseKey {
        LeaseKey::Member(Arc::clone(&self.config.pod))
    }

    /// Returns whether a key is that of this process's own Lease.
    pub(super) fn is_own(&self, key: &LeaseKey) -> bool {
        matches!(key, LeaseKey::Member(pod) if *pod == self.config.pod)
    }

    /// Returns the shard count that this member announces; zero during shutdown.
    pub(super) fn desired_shards(&self) -> u16 {
        match self.shutdown {
            Some(_) => 0,
            None => self.shard_count,
        }
    }

    /// Returns the identity of this process while it is a member.
    pub(crate) fn identity(&self) -> Option<&MemberId> {
        self.term.as_ref().map(|_| &self.identity)
    }

    /// Ends the membership if its Lease has another holder or is deleted.
    pub(super) fn check_membership(&mut self) {
        if self.term.is_none() {
            return;
        }
        match self.view.members.get(&self.config.pod) {
            None => self.end_membership("member lease deleted"),
            Some(cached) if cached.state.holder.as_ref() != Some(&self.identity) => {
                self.end_membership("member lease taken over");
            }
            Some(_) => {}
        }
    }

    /// Ends the membership and all shard leases, and draws a new identity.
    pub(super) fn end_membership(&mut self, reason: &'static str) {
        if self.term.take().is_none() {
            return;
        }
        for held_shard in self.held.values_mut() {
            held_shard.state = HoldState::Lost;
        }
        self.commands.push(Command::RevokeAll(reason));
        self.releasing.clear();
        self.last_handover = None;
        self.backoffs.remove(&self.own_key());
        let next = new_identity(&mut self.config);
        if self.former_identities.len() >= MAX_FORMER_IDENTITIES {
            self.former_identities.pop_first();
        }
        self.former_identities
            .insert(std::mem::replace(&mut self.identity, next));
    }

    /// Starts a new term after the renewal that was sent at `sent` succeeded.
    pub(super) fn on_renewed(&mut self, sent: Instant, now: Instant) {
        // Others may see the record as soon as it is sent, so the deadline counts from then.
        let deadline = sent + self.config.timing.renew_deadline();
        if now >= deadline {
            return;
        }
        let random = self.random();
        self.term = Some(MembershipTerm {
            deadline,
            renew_at: sent + self.config.timing.renewal_with_jitter(random),
        });
        self.commands
            .push(Command::SetDeadline(self.identity.clone(), deadline));
    }

    /// Joins the fleet, or renews the membership.
    pub(super) fn drive_heartbeat(&mut self, now: Instant) {
        let key = self.own_key();
        let can_write = self.can_request(&key, now);
        let Some(term) = self.term else {
            if self.shutdown.is_none() && self.view.listed && can_write && self.can_join(now) {
                self.send_write(key, RequestKind::Renew, Some(self.identity.clone()), now);
            }
            return;
        };
        self.wake_by(term.deadline);
        // Others assign no shards to a member that does not announce their count. On shutdown, the
        // announcement is worth a write only while there is work to take over.
        let idle = self.shutdown.is_some() && self.held.is_empty();
        let announce = self.announced_shards != self.desired_shards() && !idle;
        let renewal_due = now >= term.renew_at;
        if can_write && (renewal_due || announce) {
            self.send_write(key, RequestKind::Renew, Some(self.identity.clone()), now);
        } else if !renewal_due {
            self.wake_by(term.renew_at);
        }
    }

    /// Returns whether this pod's Lease is free, or held by a process that has ended.
    fn can_join(&mut self, now: Instant) -> bool {
        let Some(cached) = self.view.members.get(&self.config.pod) else {
            return true;
        };
        let version = cached.state.version;
        let Some(holder) = cached.state.holder.clone() else {
            return true;
        };
        holder == self.identity
            || !matches!(self.liveness(&holder, version, now), Liveness::Alive(_))
    }

    /// Determines the live members, and since when the eligible ones have not changed.
    pub(super) fn recompute_live_members(&mut self, now: Instant) {
        let holders: Vec<(MemberId, u64, u16)> = self
            .view
            .members
            .values()
            .filter_map(|cached| {
                let holder = cached.state.holder.clone()?;
                Some((holder, cached.state.version, cached.state.desired_shards))
            })
            .collect();
        let mut eligible_members = BTreeSet::new();
        self.live_members = 0;
        for (holder, version, desired_shards) in holders {
            let is_self = holder == self.identity;
            if is_self && self.term.is_none()
                || !matches!(self.liveness(&holder, version, now), Liveness::Alive(_))
            {
                continue;
            }
            self.live_members += 1;
            let desired_shards = if is_self {
                self.desired_shards()
            } else {
                desired_shards
            };
            if desired_shards == self.shard_count {
                eligible_members.insert(holder);
            }
        }
        if eligible_members != *self.eligible_members {
            self.eligible_members = Arc::new(eligible_members);
            self.stable_since = now;
        }
    }

    /// Finishes the shutdown once all work has ended and all Leases were released.
    pub(super) fn drive_shutdown(&mut self, now: Instant) {
        let Some(mut shutdown) = self.shutdown else {
            return;
        };
        if !self.held.is_empty() {
            return;
        }
        let since = *shutdown.idle_since.get_or_insert(now);
        self.shutdown = Some(shutdown);
        let until = since + self.retry_period() * RELEASE_PERIODS;
        let key = self.own_key();
        let is_own = |holder: Option<&MemberId>| holder == Some(&self.identity);
        let shards_left = self.term.is_some()
            && self
                .view
                .shards
                .values()
                .any(|s| is_own(s.state.holder.as_ref()));
        let member = self.view.members.get(&self.config.pod);
        let member_left = member.is_some_and(|s| is_own(s.state.holder.as_ref()));
        if now >= until {
            return self.finish(false);
        }
        self.wake_by(until);
        if shards_left || !self.pending.is_empty() {
            return;
        }
        if !member_left {
            return self.finish(true);
        }
        if self.can_request(&key, now) {
            self.send_request(key, RequestKind::Delete, now);
        }
    }

    /// Stops the state machine.
    fn finish(&mut self, all: bool) {
        self.finished = true;
        self.next_wake += IDLE_WAKE_INTERVAL;
        self.commands.push(Command::Finished(all));
    }
}
