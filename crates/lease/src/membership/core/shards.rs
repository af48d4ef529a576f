//! The shards: which of them are claimed, handed out, asked for again and given up.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

use super::{Action, Core, Kind, MOST_CALLS};
use crate::membership::assignment::assign_shards;
use crate::membership::names::{LeaseKey, MemberId, ShardId};
use crate::membership::view::Liveness;
use crate::membership::{ShardAssignment, names};

/// The membership must have been calm for this many retry periods before a shard is moved only
/// for the sake of balance.
const CALM_PERIODS: u32 = 2;
/// A hold that lasted for this many durations was a good one.
const GOOD_DURATIONS: u32 = 2;
/// A shard whose holds keep being dropped is left alone for this many retry periods at most.
const LONGEST_COOLDOWN: u32 = 8;

/// A hold that was handed out and has not been dropped.
#[derive(Clone, Copy, Debug)]
pub(super) struct Holding {
    pub(super) state: State,
    since: Instant,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    Held,
    /// It was asked for again.
    Leaving,
    Lost,
}

/// A shard whose hold was dropped although nobody had asked for it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cooldown {
    until: Instant,
    length: Duration,
}

impl Core {
    /// Takes note that no work is under way on a shard any more.
    pub(super) fn dropped(&mut self, shard_id: ShardId, now: Instant) {
        let Some(hold) = self.holds.remove(&shard_id) else {
            return;
        };
        if hold.state == State::Lost {
            return;
        }
        self.relinquished.insert(shard_id);
        if hold.state == State::Leaving {
            return;
        }
        let period = self.retry_period();
        let good = self.settings.timing.duration() * GOOD_DURATIONS;
        let before = self.cooldowns.get(&shard_id);
        let length = before
            .filter(|_| now < hold.since + good)
            .map_or(period, |cooldown| {
                (cooldown.length * 2).min(period * LONGEST_COOLDOWN)
            });
        let until = now + length;
        self.cooldowns.insert(shard_id, Cooldown { until, length });
    }

    pub(super) fn keep_shards(&mut self, now: Instant) {
        self.lose_what_is_not_ours();
        self.keep_plan(now);
        let foreign = self.first_foreign(now);
        if self.term.is_some() {
            self.settle_ours(foreign, now);
            self.ask_back(now);
            if self.stopping.is_none() {
                self.claim(foreign.is_some(), now);
            }
        }
    }

    fn is_ours(&self, shard_id: ShardId) -> bool {
        let seen = self.view.shards.get(&shard_id);
        self.term.is_some() && seen.is_some_and(|s| s.state.holder.as_ref() == Some(&self.me))
    }

    fn lose_what_is_not_ours(&mut self) {
        let shard_ids: Vec<ShardId> = self.holds.keys().copied().collect();
        for shard_id in shard_ids {
            if self.is_ours(shard_id) {
                continue;
            }
            if let Some(hold) = self.holds.get_mut(&shard_id)
                && hold.state != State::Lost
            {
                hold.state = State::Lost;
                self.actions.push(Action::Lose(shard_id));
            }
        }
    }

    /// Who should own what, computed anew when what it follows from has changed.
    fn keep_plan(&mut self, _: Instant) {
        let mut owners: BTreeMap<u16, MemberId> = BTreeMap::new();
        for (shard_id, seen) in self.view.shards.range(layout(self.wanted)) {
            if let Some(holder) = &seen.state.holder {
                owners.insert(shard_id.shard, holder.clone());
            }
        }
        for (shard_id, deleted_lease) in self.view.deleted_shards.range(layout(self.wanted)) {
            owners.insert(shard_id.shard, deleted_lease.holder.clone());
        }
        owners.retain(|_, owner| self.planners.contains(owner));
        let planned_for = Some((self.planners.clone(), owners, self.wanted));
        if planned_for != self.planned_for {
            if let Some((planners, owners, wanted)) = &planned_for {
                self.plan = assign_shards(planners, *wanted, owners);
            }
            self.planned_for = planned_for;
        }
    }

    /// The earliest claim to a shard of another layout whose owner may live, if there is any.
    fn first_foreign(&mut self, now: Instant) -> Option<u64> {
        let others = self
            .view
            .shards
            .iter()
            .filter(|(shard_id, _)| shard_id.shard_count != self.wanted);
        let mut claims: Vec<(u64, MemberId)> = others
            .filter_map(|(_, seen)| Some((seen.state.version, seen.state.holder.clone()?)))
            .collect();
        let deleted_shards = self
            .view
            .deleted_shards
            .iter()
            .filter(|(shard_id, _)| shard_id.shard_count != self.wanted);
        claims.extend(deleted_shards.map(|(_, deleted_lease)| (0, deleted_lease.holder.clone())));
        let undropped = self
            .holds
            .keys()
            .any(|shard_id| shard_id.shard_count != self.wanted);
        claims.retain(|(version, holder)| self.liveness(holder, *version, now) != Liveness::Dead);
        let earliest = claims.into_iter().map(|(version, _)| version).min();
        if undropped { Some(0) } else { earliest }
    }

    /// Hands out what has become ours, and gives up what is not to be ours any more.
    fn settle_ours(&mut self, foreign: Option<u64>, now: Instant) {
        self.cooldowns
            .retain(|_, cooldown| now < cooldown.until + cooldown.length * 2);
        let ours: Vec<(ShardId, u64)> = self
            .view
            .shards
            .iter()
            .filter(|(_, seen)| seen.state.holder.as_ref() == Some(&self.me))
            .map(|(shard_id, seen)| (*shard_id, seen.state.version))
            .collect();
        self.relinquished
            .retain(|shard_id| ours.iter().any(|(ours, _)| ours == shard_id));
        for (shard_id, version) in ours {
            if self.holds.contains_key(&shard_id) {
                continue;
            }
            let later = foreign.is_some_and(|foreign| foreign < version);
            let cold = self.cooldowns.get(&shard_id).is_some_and(|c| now < c.until);
            let unwanted = shard_id.shard_count != self.wanted || self.stopping.is_some();
            if unwanted || cold || self.relinquished.contains(&shard_id) {
                self.give_up(shard_id, now);
            } else if self.view.watched_version < version {
                // The changes have not come so far.
            } else if later {
                self.give_up(shard_id, now);
            } else {
                let (state, since) = (State::Held, now);
                self.holds.insert(shard_id, Holding { state, since });
                self.actions.push(Action::Begin(shard_id));
            }
        }
    }

    fn give_up(&mut self, shard_id: ShardId, now: Instant) {
        let key = LeaseKey::Shard(shard_id);
        if self.may_call(&key, now) {
            // Even if it is not answered, others may see it as free from now on.
            self.relinquished.insert(shard_id);
            self.moved = Some((shard_id, now));
            self.write(key, Kind::GiveUp, None, now);
        }
    }

    /// Asks for the shards of another layout, for all when this process is to end, and for one
    /// at a time that is planned for another member.
    fn ask_back(&mut self, now: Instant) {
        let mut asked = Vec::new();
        for (shard_id, hold) in &mut self.holds {
            if hold.state == State::Held
                && (shard_id.shard_count != self.wanted || self.stopping.is_some())
            {
                hold.state = State::Leaving;
                asked.push(*shard_id);
            }
        }
        if asked.is_empty() {
            asked.extend(self.next_move(now));
        }
        self.actions.extend(asked.into_iter().map(Action::Leave));
    }

    fn next_move(&mut self, now: Instant) -> Option<ShardId> {
        let period = self.retry_period();
        let planned = |shard_id: &ShardId, hold: &Holding| {
            hold.state == State::Held
                && self
                    .plan
                    .get(&shard_id.shard)
                    .is_some_and(|owner| *owner != self.me)
        };
        let mut held = self.holds.iter();
        let shard_id = *held.find(|(shard_id, hold)| planned(shard_id, hold))?.0;
        let calm = self.calm_since + period * CALM_PERIODS;
        if now < calm {
            self.wake_at(calm);
            return None;
        }
        let leaving = self.holds.values().any(|hold| hold.state == State::Leaving);
        if leaving || !self.relinquished.is_empty() {
            return None;
        }
        // What was handed over last is to have come to its owner first.
        if let Some((last, since)) = self.moved {
            let seen = self.view.shards.get(&last);
            let free =
                last.shard_count == self.wanted && seen.is_some_and(|s| s.state.holder.is_none());
            if free && now < since + period {
                self.wake_at(since + period);
                return None;
            }
        }
        if let Some(hold) = self.holds.get_mut(&shard_id) {
            hold.state = State::Leaving;
        }
        Some(shard_id)
    }

    /// Claims what is planned for this process and free, and what was deleted under its hands.
    fn claim(&mut self, foreign: bool, now: Instant) {
        let ours: Vec<ShardId> = self
            .view
            .deleted_shards
            .iter()
            .filter(|(shard_id, deleted_lease)| {
                deleted_lease.holder == self.me && !self.holds.contains_key(shard_id)
            })
            .map(|(shard_id, _)| *shard_id)
            .collect();
        for shard_id in ours {
            self.try_claim(shard_id, now);
        }
        if foreign {
            return;
        }
        for shard in 0..self.wanted {
            if self.plan.get(&shard) == Some(&self.me) {
                let shard_count = self.wanted;
                self.try_claim(ShardId { shard_count, shard }, now);
            }
        }
    }

    fn try_claim(&mut self, shard_id: ShardId, now: Instant) {
        if self.holds.contains_key(&shard_id) || !self.is_free(shard_id, now) {
            return;
        }
        let cold = self.cooldowns.get(&shard_id).map(|cooldown| cooldown.until);
        let after = cold.max(self.claims_after).filter(|after| now < *after);
        if let Some(after) = after {
            return self.wake_at(after);
        }
        let key = LeaseKey::Shard(shard_id);
        let busy = self.calls_of(&[Kind::Claim, Kind::Delete]) >= MOST_CALLS;
        if !busy && self.may_call(&key, now) {
            self.write(key, Kind::Claim, Some(self.me.clone()), now);
        }
    }

    /// Whether nobody who may live has this shard.
    fn is_free(&mut self, shard_id: ShardId, now: Instant) -> bool {
        if let Some(seen) = self.view.shards.get(&shard_id) {
            let version = seen.state.version;
            let Some(holder) = seen.state.holder.clone() else {
                return true;
            };
            return holder != self.me && self.liveness(&holder, version, now) == Liveness::Dead;
        }
        let Some(deleted_lease) = self.view.deleted_shards.get(&shard_id).cloned() else {
            return true;
        };
        let until = self.view.reserved_until(&deleted_lease);
        self.wake_at(until);
        deleted_lease.holder == self.me
            || now >= until
            || self.liveness(&deleted_lease.holder, 0, now) == Liveness::Dead
    }

    /// What is known of each shard of the wanted layout, and the number of members.
    pub(crate) fn seats(&self) -> (usize, Vec<ShardAssignment>) {
        let seat = |shard| {
            let shard_id = ShardId {
                shard_count: self.wanted,
                shard,
            };
            let holder = self
                .view
                .shards
                .get(&shard_id)
                .and_then(|seen| seen.state.holder.clone());
            let lives = |holder: &MemberId| {
                let member = self.view.members.get(names::pod_of(holder));
                member.is_some_and(|seen| seen.state.holder.as_ref() == Some(holder))
            };
            let hold = self.holds.get(&shard_id);
            let held = hold.is_some_and(|hold| hold.state != State::Lost);
            ShardAssignment {
                shard,
                holder: holder.filter(lives).map(|holder| holder.to_string()),
                held,
                pending: !held && self.term.is_some() && self.plan.get(&shard) == Some(&self.me),
            }
        };
        (self.members, (0..self.wanted).map(seat).collect())
    }

    pub(crate) fn wanted(&self) -> u16 {
        self.wanted
    }
}

/// All places of one layout.
fn layout(shard_count: u16) -> std::ops::Range<ShardId> {
    let first = |shard_count| ShardId {
        shard_count,
        shard: 0,
    };
    first(shard_count)..first(shard_count.saturating_add(1))
}
