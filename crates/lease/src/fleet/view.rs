//! What a process has seen of the Leases of its fleet, and what follows about who lives.
//!
//! It is fed from three sides: lists, the changes that follow them, and the answers to this
//! process's own calls, which run ahead of the changes. Of two records of a Lease the one with
//! the higher version counts. How far the changes have come is known, so that nothing is
//! concluded from what they have not shown yet.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tokio::time::Instant;

use super::name::{Fact, Id, Name, Place, pod_of};
use crate::lease::timing::MAX_LEASE_DURATION;

/// A record, and since when this process has seen it in this very version.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) fact: Fact,
    pub(crate) since: Instant,
}

/// Who held a shard's Lease when it was deleted, which that process may not know yet.
#[derive(Clone, Debug)]
pub(crate) struct Orphan {
    pub(crate) holder: Id,
    since: Instant,
}

/// What is known of the process with some identity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Life {
    /// It may work, at least until then.
    Lives(Instant),
    /// Its time has passed, as far as this process sees. That must be written down, over the
    /// version that was seen, before anybody builds on it: a view may be old.
    Expired,
    /// It does not work any more.
    Over,
}

#[derive(Debug)]
pub(crate) struct View {
    /// How long a record must have been seen before its holder's time is over, at least.
    duration: Duration,
    pub(crate) members: BTreeMap<Id, Seen>,
    pub(crate) shards: BTreeMap<Place, Seen>,
    pub(crate) orphans: BTreeMap<Place, Orphan>,
    /// Holders without a Lease of their own, and since when this process knows.
    absent: BTreeMap<Id, Instant>,
    /// How far the changes have come.
    pub(crate) at: u64,
    /// An answer that the changes have not come to yet, and when it came.
    awaited: Option<(u64, Instant)>,
    /// The latest version that a call was answered with.
    answered: u64,
    pub(crate) listed: bool,
}

impl View {
    pub(crate) fn new(duration: Duration) -> Self {
        Self {
            duration,
            members: BTreeMap::new(),
            shards: BTreeMap::new(),
            orphans: BTreeMap::new(),
            absent: BTreeMap::new(),
            at: 0,
            awaited: None,
            answered: 0,
            listed: false,
        }
    }

    pub(crate) fn get(&self, name: &Name) -> Option<&Seen> {
        match name {
            Name::Member(pod) => self.members.get(pod),
            Name::Shard(place) => self.shards.get(place),
        }
    }

    /// Takes note of all that there is.
    pub(crate) fn list(&mut self, facts: Vec<(Name, Fact)>, version: u64, now: Instant) {
        let listed: BTreeSet<&Name> = facts.iter().map(|(name, _)| name).collect();
        // A list that is behind what was seen is of a server that has lost its memory.
        let forgetful = version < self.at;
        let names = self.members.keys().cloned().map(Name::Member);
        let names = names.chain(self.shards.keys().copied().map(Name::Shard));
        let gone: Vec<Name> = names
            .filter(|name| !listed.contains(name))
            .filter(|name| forgetful || self.get(name).is_some_and(|s| s.fact.version <= version))
            .collect();
        for name in gone {
            self.remove(&name, now);
        }
        for (name, fact) in facts {
            let news = self.get(&name).is_none_or(|seen| {
                let kept = seen.fact.version;
                kept < fact.version || forgetful && kept != fact.version
            });
            if news {
                self.insert(name, fact, now);
            }
        }
        self.at = version;
        self.listed = true;
        if forgetful {
            (self.answered, self.awaited) = (version, None);
        }
        self.settle(now);
    }

    /// Takes note of a change that followed. Whether it is a renewal and nothing else.
    pub(crate) fn change(&mut self, name: Name, fact: Fact, now: Instant) -> bool {
        self.at = self.at.max(fact.version);
        let settled = self.settle(now);
        self.put(name, fact, now) && !settled
    }

    /// Takes note of a deletion that followed.
    pub(crate) fn gone(&mut self, name: &Name, now: Instant) {
        // What an answer told and the changes have not shown came later than the deletion.
        if self.get(name).is_some_and(|s| s.fact.version <= self.at) {
            self.remove(name, now);
        }
    }

    /// Takes note of what a call was answered with, as soon as the answer came.
    pub(crate) fn answer(&mut self, name: Name, fact: Fact, now: Instant) {
        self.answered = self.answered.max(fact.version);
        self.settle(now);
        self.put(name, fact, now);
    }

    /// Takes note that there was no such Lease, as a look told that began at `sent`.
    pub(crate) fn missing(&mut self, name: &Name, sent: Instant, now: Instant) {
        if self.get(name).is_some_and(|seen| seen.since <= sent) {
            self.remove(name, now);
        }
    }

    /// Takes note that this process has deleted a Lease.
    pub(crate) fn deleted(&mut self, name: &Name) {
        match name {
            Name::Member(pod) => drop(self.members.remove(pod)),
            Name::Shard(place) => drop(self.shards.remove(place)),
        }
    }

    /// Since when the changes owe this process a write of its own.
    pub(crate) fn owes_since(&self) -> Option<Instant> {
        self.awaited.map(|(_, since)| since)
    }

    /// Looks what the changes owe. Whether they have paid something.
    fn settle(&mut self, now: Instant) -> bool {
        let owed = self.awaited;
        if owed.is_none_or(|(version, _)| version <= self.at) {
            self.awaited = (self.answered > self.at).then_some((self.answered, now));
        }
        owed.is_some() && self.awaited != owed
    }

    fn put(&mut self, name: Name, fact: Fact, now: Instant) -> bool {
        let routine = match self.get(&name) {
            // One of our own writes to a shard's Lease has come back.
            Some(seen) if seen.fact.version >= fact.version => {
                return seen.fact.version > fact.version || matches!(name, Name::Member(_));
            }
            Some(seen) => {
                matches!(name, Name::Member(_))
                    && seen.fact.holder == fact.holder
                    && seen.fact.takes == fact.takes
            }
            None => false,
        };
        self.insert(name, fact, now);
        routine
    }

    fn insert(&mut self, name: Name, fact: Fact, now: Instant) {
        let seen = Seen { fact, since: now };
        match name {
            Name::Member(pod) => drop(self.members.insert(pod, seen)),
            Name::Shard(place) => {
                self.orphans.remove(&place);
                self.shards.insert(place, seen);
            }
        }
    }

    fn remove(&mut self, name: &Name, now: Instant) {
        match name {
            Name::Member(pod) => drop(self.members.remove(pod)),
            Name::Shard(place) => {
                let holder = self.shards.remove(place).and_then(|seen| seen.fact.holder);
                if let Some(holder) = holder {
                    let orphan = Orphan { holder, since: now };
                    self.orphans.insert(*place, orphan);
                }
            }
        }
    }

    /// When a member's time is over unless it is seen to renew.
    pub(crate) fn expiry(&self, seen: &Seen) -> Instant {
        seen.since + seen.fact.wait.min(MAX_LEASE_DURATION).max(self.duration)
    }

    /// What is known of the process `id`, as a record of the version `claimed` names it.
    pub(crate) fn life(&mut self, id: &Id, claimed: u64, now: Instant) -> Life {
        if claimed > self.at {
            // Its own Lease may not have been seen yet, as it came before what it has claimed.
            return Life::Lives(now + self.duration);
        }
        let Some(seen) = self.members.get(pod_of(id)) else {
            let since = *self.absent.entry(id.clone()).or_insert(now);
            let until = since + self.duration;
            return if now >= until {
                Life::Over
            } else {
                Life::Lives(until)
            };
        };
        self.absent.remove(id);
        let until = self.expiry(seen);
        if seen.fact.holder.as_ref() != Some(id) {
            // Nobody takes a member's Lease before its holder's time is over.
            Life::Over
        } else if now >= until {
            Life::Expired
        } else {
            Life::Lives(until)
        }
    }

    /// When a deleted Lease is anybody's, even if its last owner lives: it has found out.
    pub(crate) fn orphaned_until(&self, orphan: &Orphan) -> Instant {
        orphan.since + self.duration * 2
    }

    /// Forgets whom no record names any more.
    pub(crate) fn tidy(&mut self, now: Instant) {
        let duration = self.duration;
        self.orphans
            .retain(|_, orphan| now < orphan.since + duration * 2);
        if !self.absent.is_empty() {
            let (shards, orphans) = (&self.shards, &self.orphans);
            self.absent.retain(|id, _| {
                shards
                    .values()
                    .any(|seen| seen.fact.holder.as_ref() == Some(id))
                    || orphans.values().any(|orphan| orphan.holder == *id)
            });
        }
    }

    /// Whether a shard's Lease names a process of `pod`.
    pub(crate) fn names(&self, pod: &str) -> bool {
        let held = self
            .shards
            .values()
            .filter_map(|seen| seen.fact.holder.as_ref());
        held.chain(self.orphans.values().map(|orphan| &orphan.holder))
            .any(|holder| pod_of(holder) == pod)
    }
}

#[cfg(test)]
mod tests;
