//! The shards: which of them are claimed, handed out, asked for again and given up.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

use super::{Action, Core, Kind, MOST_CALLS};
use crate::fleet::name::{Id, Name, Place};
use crate::fleet::plan::plan;
use crate::fleet::view::Life;
use crate::fleet::{Seat, name};

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
    pub(super) fn dropped(&mut self, place: Place, now: Instant) {
        let Some(hold) = self.holds.remove(&place) else {
            return;
        };
        if hold.state == State::Lost {
            return;
        }
        self.relinquished.insert(place);
        if hold.state == State::Leaving {
            return;
        }
        let period = self.retry_period();
        let good = self.settings.timing.duration() * GOOD_DURATIONS;
        let before = self.cooldowns.get(&place);
        let length = before
            .filter(|_| now < hold.since + good)
            .map_or(period, |cooldown| {
                (cooldown.length * 2).min(period * LONGEST_COOLDOWN)
            });
        let until = now + length;
        self.cooldowns.insert(place, Cooldown { until, length });
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

    fn is_ours(&self, place: Place) -> bool {
        let seen = self.view.shards.get(&place);
        self.term.is_some() && seen.is_some_and(|s| s.fact.holder.as_ref() == Some(&self.me))
    }

    fn lose_what_is_not_ours(&mut self) {
        let places: Vec<Place> = self.holds.keys().copied().collect();
        for place in places {
            if self.is_ours(place) {
                continue;
            }
            if let Some(hold) = self.holds.get_mut(&place)
                && hold.state != State::Lost
            {
                hold.state = State::Lost;
                self.actions.push(Action::Lose(place));
            }
        }
    }

    /// Who should own what, computed anew when what it follows from has changed.
    fn keep_plan(&mut self, _: Instant) {
        let mut owners: BTreeMap<u16, Id> = BTreeMap::new();
        for (place, seen) in self.view.shards.range(layout(self.wanted)) {
            if let Some(holder) = &seen.fact.holder {
                owners.insert(place.shard, holder.clone());
            }
        }
        for (place, orphan) in self.view.orphans.range(layout(self.wanted)) {
            owners.insert(place.shard, orphan.holder.clone());
        }
        owners.retain(|_, owner| self.planners.contains(owner));
        let planned_for = Some((self.planners.clone(), owners, self.wanted));
        if planned_for != self.planned_for {
            if let Some((planners, owners, wanted)) = &planned_for {
                self.plan = plan(planners, *wanted, owners);
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
            .filter(|(place, _)| place.of != self.wanted);
        let mut claims: Vec<(u64, Id)> = others
            .filter_map(|(_, seen)| Some((seen.fact.version, seen.fact.holder.clone()?)))
            .collect();
        let orphans = self
            .view
            .orphans
            .iter()
            .filter(|(place, _)| place.of != self.wanted);
        claims.extend(orphans.map(|(_, orphan)| (0, orphan.holder.clone())));
        let undropped = self.holds.keys().any(|place| place.of != self.wanted);
        claims.retain(|(version, holder)| self.life(holder, *version, now) != Life::Over);
        let earliest = claims.into_iter().map(|(version, _)| version).min();
        if undropped { Some(0) } else { earliest }
    }

    /// Hands out what has become ours, and gives up what is not to be ours any more.
    fn settle_ours(&mut self, foreign: Option<u64>, now: Instant) {
        self.cooldowns
            .retain(|_, cooldown| now < cooldown.until + cooldown.length * 2);
        let ours: Vec<(Place, u64)> = self
            .view
            .shards
            .iter()
            .filter(|(_, seen)| seen.fact.holder.as_ref() == Some(&self.me))
            .map(|(place, seen)| (*place, seen.fact.version))
            .collect();
        self.relinquished
            .retain(|place| ours.iter().any(|(ours, _)| ours == place));
        for (place, version) in ours {
            if self.holds.contains_key(&place) {
                continue;
            }
            let later = foreign.is_some_and(|foreign| foreign < version);
            let cold = self.cooldowns.get(&place).is_some_and(|c| now < c.until);
            let unwanted = place.of != self.wanted || self.stopping.is_some();
            if unwanted || cold || self.relinquished.contains(&place) {
                self.give_up(place, now);
            } else if self.view.at < version {
                // The changes have not come so far.
            } else if later {
                self.give_up(place, now);
            } else {
                let (state, since) = (State::Held, now);
                self.holds.insert(place, Holding { state, since });
                self.actions.push(Action::Begin(place));
            }
        }
    }

    fn give_up(&mut self, place: Place, now: Instant) {
        let name = Name::Shard(place);
        if self.may_call(&name, now) {
            // Even if it is not answered, others may see it as free from now on.
            self.relinquished.insert(place);
            self.moved = Some((place, now));
            self.write(name, Kind::GiveUp, None, now);
        }
    }

    /// Asks for the shards of another layout, for all when this process is to end, and for one
    /// at a time that is planned for another member.
    fn ask_back(&mut self, now: Instant) {
        let mut asked = Vec::new();
        for (place, hold) in &mut self.holds {
            if hold.state == State::Held && (place.of != self.wanted || self.stopping.is_some()) {
                hold.state = State::Leaving;
                asked.push(*place);
            }
        }
        if asked.is_empty() {
            asked.extend(self.next_move(now));
        }
        self.actions.extend(asked.into_iter().map(Action::Leave));
    }

    fn next_move(&mut self, now: Instant) -> Option<Place> {
        let period = self.retry_period();
        let planned = |place: &Place, hold: &Holding| {
            hold.state == State::Held
                && self
                    .plan
                    .get(&place.shard)
                    .is_some_and(|owner| *owner != self.me)
        };
        let mut held = self.holds.iter();
        let place = *held.find(|(place, hold)| planned(place, hold))?.0;
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
            let free = last.of == self.wanted && seen.is_some_and(|s| s.fact.holder.is_none());
            if free && now < since + period {
                self.wake_at(since + period);
                return None;
            }
        }
        if let Some(hold) = self.holds.get_mut(&place) {
            hold.state = State::Leaving;
        }
        Some(place)
    }

    /// Claims what is planned for this process and free, and what was deleted under its hands.
    fn claim(&mut self, foreign: bool, now: Instant) {
        let ours: Vec<Place> = self
            .view
            .orphans
            .iter()
            .filter(|(place, orphan)| orphan.holder == self.me && !self.holds.contains_key(place))
            .map(|(place, _)| *place)
            .collect();
        for place in ours {
            self.try_claim(place, now);
        }
        if foreign {
            return;
        }
        for shard in 0..self.wanted {
            if self.plan.get(&shard) == Some(&self.me) {
                let of = self.wanted;
                self.try_claim(Place { of, shard }, now);
            }
        }
    }

    fn try_claim(&mut self, place: Place, now: Instant) {
        if self.holds.contains_key(&place) || !self.is_free(place, now) {
            return;
        }
        let cold = self.cooldowns.get(&place).map(|cooldown| cooldown.until);
        let after = cold.max(self.claims_after).filter(|after| now < *after);
        if let Some(after) = after {
            return self.wake_at(after);
        }
        let name = Name::Shard(place);
        let busy = self.calls_of(&[Kind::Claim, Kind::Delete]) >= MOST_CALLS;
        if !busy && self.may_call(&name, now) {
            self.write(name, Kind::Claim, Some(self.me.clone()), now);
        }
    }

    /// Whether nobody who may live has this shard.
    fn is_free(&mut self, place: Place, now: Instant) -> bool {
        if let Some(seen) = self.view.shards.get(&place) {
            let version = seen.fact.version;
            let Some(holder) = seen.fact.holder.clone() else {
                return true;
            };
            return holder != self.me && self.life(&holder, version, now) == Life::Over;
        }
        let Some(orphan) = self.view.orphans.get(&place).cloned() else {
            return true;
        };
        let until = self.view.orphaned_until(&orphan);
        self.wake_at(until);
        orphan.holder == self.me || now >= until || self.life(&orphan.holder, 0, now) == Life::Over
    }

    /// What is known of each shard of the wanted layout, and the number of members.
    pub(crate) fn seats(&self) -> (usize, Vec<Seat>) {
        let seat = |shard| {
            let place = Place {
                of: self.wanted,
                shard,
            };
            let holder = self
                .view
                .shards
                .get(&place)
                .and_then(|seen| seen.fact.holder.clone());
            let lives = |holder: &Id| {
                let member = self.view.members.get(name::pod_of(holder));
                member.is_some_and(|seen| seen.fact.holder.as_ref() == Some(holder))
            };
            let hold = self.holds.get(&place);
            let mine = hold.is_some_and(|hold| hold.state != State::Lost);
            Seat {
                shard,
                holder: holder.filter(lives).map(|holder| holder.to_string()),
                mine,
                wanted: !mine && self.term.is_some() && self.plan.get(&shard) == Some(&self.me),
            }
        };
        (self.members, (0..self.wanted).map(seat).collect())
    }

    pub(crate) fn wanted(&self) -> u16 {
        self.wanted
    }
}

/// All places of one layout.
fn layout(of: u16) -> std::ops::Range<Place> {
    let first = |of| Place { of, shard: 0 };
    first(of)..first(of.saturating_add(1))
}
