//! This process's own Lease: taking it, renewing it, losing it, and giving it up at the end.

use std::collections::BTreeSet;
use std::sync::Arc;

use tokio::time::Instant;

use super::shards::State;
use super::{Action, Core, IDLE, Kind, MOST_FORMER, new_identity};
use crate::membership::names::{LeaseKey, MemberId};
use crate::membership::view::Liveness;

/// Giving up may take this many retry periods; after that the Leases are left to expire.
const RELEASE_PERIODS: u32 = 2;

/// A membership.
#[derive(Clone, Copy, Debug)]
pub(super) struct Term {
    /// When this process must stop, unless it has renewed by then.
    pub(super) until: Instant,
    renew_at: Instant,
}

/// The end of a process.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Stopping {
    /// Since when no work is under way.
    quiet_since: Option<Instant>,
}

impl Core {
    fn my_name(&self) -> LeaseKey {
        LeaseKey::Member(Arc::clone(&self.settings.pod))
    }

    pub(super) fn is_mine(&self, key: &LeaseKey) -> bool {
        matches!(key, LeaseKey::Member(pod) if *pod == self.settings.pod)
    }

    /// Of how many shards this process takes its share.
    pub(super) fn desired_shards(&self) -> u16 {
        match self.stopping {
            Some(_) => 0,
            None => self.wanted,
        }
    }

    /// The identity of this process while it is a member.
    pub(crate) fn identity(&self) -> Option<&MemberId> {
        self.term.as_ref().map(|_| &self.me)
    }

    /// Ends the membership if its Lease is in other hands or gone.
    pub(super) fn note_member(&mut self) {
        if self.term.is_none() {
            return;
        }
        match self.view.members.get(&self.settings.pod) {
            None => self.lose("it was deleted"),
            Some(seen) if seen.state.holder.as_ref() != Some(&self.me) => {
                self.lose("it is in other hands");
            }
            Some(_) => {}
        }
    }

    /// Ends the membership, and all that hangs on it.
    pub(super) fn lose(&mut self, why: &'static str) {
        if self.term.take().is_none() {
            return;
        }
        for hold in self.holds.values_mut() {
            hold.state = State::Lost;
        }
        self.actions.push(Action::LoseAll(why));
        self.relinquished.clear();
        self.moved = None;
        self.pauses.remove(&self.my_name());
        let next = new_identity(&mut self.settings);
        if self.former.len() >= MOST_FORMER {
            self.former.pop_first();
        }
        self.former.insert(std::mem::replace(&mut self.me, next));
    }

    /// Takes note that this process's Lease was written as was asked for at `sent`.
    pub(super) fn renewed(&mut self, sent: Instant, now: Instant) {
        // Others may see the record as soon as it is sent, so that is when our time begins.
        let until = sent + self.settings.timing.renew_deadline();
        if now >= until {
            return;
        }
        let random = self.random();
        self.term = Some(Term {
            until,
            renew_at: sent + self.settings.timing.renewal_with_jitter(random),
        });
        self.actions.push(Action::Until(self.me.clone(), until));
    }

    /// Becomes a member, or goes on being one.
    pub(super) fn keep_membership(&mut self, now: Instant) {
        let key = self.my_name();
        let may = self.may_call(&key, now);
        let Some(term) = self.term else {
            if self.stopping.is_none() && self.view.listed && may && self.may_join(now) {
                self.write(key, Kind::Renew, Some(self.me.clone()), now);
            }
            return;
        };
        self.wake_at(term.until);
        // The others plan nothing for a member that would not take it. At the end, it is worth
        // telling them only while there is work for them to take over.
        let quiet = self.stopping.is_some() && self.holds.is_empty();
        let tell = self.told != self.desired_shards() && !quiet;
        let late = now >= term.renew_at;
        if may && (late || tell) {
            self.write(key, Kind::Renew, Some(self.me.clone()), now);
        } else if !late {
            self.wake_at(term.renew_at);
        }
    }

    /// Whether this pod's Lease is free, or in the hands of a process that is no more.
    fn may_join(&mut self, now: Instant) -> bool {
        let Some(seen) = self.view.members.get(&self.settings.pod) else {
            return true;
        };
        let version = seen.state.version;
        let Some(holder) = seen.state.holder.clone() else {
            return true;
        };
        holder == self.me || !matches!(self.liveness(&holder, version, now), Liveness::Alive(_))
    }

    /// Who takes part, and since when they have been the same.
    pub(super) fn take_census(&mut self, now: Instant) {
        let holders: Vec<(MemberId, u64, u16)> = self
            .view
            .members
            .values()
            .filter_map(|seen| {
                let holder = seen.state.holder.clone()?;
                Some((holder, seen.state.version, seen.state.desired_shards))
            })
            .collect();
        let mut planners = BTreeSet::new();
        self.members = 0;
        for (holder, version, desired_shards) in holders {
            let me = holder == self.me;
            if me && self.term.is_none()
                || !matches!(self.liveness(&holder, version, now), Liveness::Alive(_))
            {
                continue;
            }
            self.members += 1;
            let desired_shards = if me {
                self.desired_shards()
            } else {
                desired_shards
            };
            if desired_shards == self.wanted {
                planners.insert(holder);
            }
        }
        if planners != *self.planners {
            self.planners = Arc::new(planners);
            self.calm_since = now;
        }
    }

    /// The end, once all work has stopped and all was given up.
    pub(super) fn finish(&mut self, now: Instant) {
        let Some(mut stop) = self.stopping else {
            return;
        };
        if !self.holds.is_empty() {
            return;
        }
        let since = *stop.quiet_since.get_or_insert(now);
        self.stopping = Some(stop);
        let until = since + self.retry_period() * RELEASE_PERIODS;
        let key = self.my_name();
        let is_mine = |holder: Option<&MemberId>| holder == Some(&self.me);
        let shards_left = self.term.is_some()
            && self
                .view
                .shards
                .values()
                .any(|s| is_mine(s.state.holder.as_ref()));
        let member = self.view.members.get(&self.settings.pod);
        let member_left = member.is_some_and(|s| is_mine(s.state.holder.as_ref()));
        if now >= until {
            return self.end(false);
        }
        self.wake_at(until);
        if shards_left || !self.calls.is_empty() {
            return;
        }
        if !member_left {
            return self.end(true);
        }
        if self.may_call(&key, now) {
            self.call(key, Kind::Delete, now);
        }
    }

    fn end(&mut self, all: bool) {
        self.ended = true;
        self.wake += IDLE;
        self.actions.push(Action::End(all));
    }
}
