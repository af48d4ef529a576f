//! What is done and what is not, and therefore how far each shard may be saved.
//!
//! Events end in any order; a position may pass an event only when it and all before it are
//! over. What is over beyond the position is listed beside it, so that a reader which starts
//! there repeats only what was under way since the last save.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use chrono::{DateTime, Utc};

use crate::capture::position::{Position, Window};
use crate::capture::reader::shard_of;
use crate::checkpoint::{CompletedAhead, PreReshardProgress, Progress};
use crate::delivery::ActionName;

/// An event's place: shard, number of the window, id in the log.
pub type Place = (u16, u64, i64);

/// What of an event tells whether earlier owners had done it.
#[derive(Clone, Copy, Debug)]
pub struct Mark {
    /// Hash of tenant, entity and key.
    pub hash: u32,
    /// The transaction that wrote it.
    pub xid: u64,
    /// When that was committed, about.
    pub since: DateTime<Utc>,
}

#[derive(Debug)]
struct Entry {
    since: DateTime<Utc>,
    left: usize,
    done: Vec<ActionName>,
}

#[derive(Debug)]
struct Shard {
    reached: Position,
    windows: BTreeMap<u64, Window>,
    entries: BTreeMap<(u64, i64), Entry>,
    /// What an earlier owner had done beyond its position, until it is read again.
    resumed: CompletedAhead,
    /// What the owners of other shards had done, until the position is past it.
    pre_reshard: Arc<[PreReshardProgress]>,
    dirty: bool,
    /// Grows with whatever brings the shard on.
    progress: u64,
    /// Jobs wait that its actions have become.
    has_jobs: bool,
}

/// The ledger of the shards of the moment.
#[derive(Debug, Default)]
pub struct Ledger {
    shards: BTreeMap<u16, Shard>,
    pending: usize,
}

impl Ledger {
    /// Takes a shard in where its checkpoint stands.
    pub fn add(&mut self, shard: u16, progress: Progress) {
        self.remove(shard);
        let shard_of = |progress: Progress| Shard {
            reached: progress.position,
            windows: BTreeMap::new(),
            entries: BTreeMap::new(),
            resumed: progress.completed_ahead,
            pre_reshard: progress.pre_reshard,
            dirty: false,
            progress: 0,
            has_jobs: false,
        };
        self.shards.insert(shard, shard_of(progress));
    }

    /// Forgets a shard.
    pub fn remove(&mut self, shard: u16) {
        if let Some(gone) = self.shards.remove(&shard) {
            let left: usize = gone.entries.values().map(|entry| entry.left).sum();
            self.pending = self.pending.saturating_sub(left);
        }
    }

    /// The events of a window are about to be entered.
    pub fn open(&mut self, shard: u16, number: u64, window: &Window) {
        if let Some(shard) = self.shards.get_mut(&shard) {
            shard
                .windows
                .entry(number)
                .or_insert_with(|| window.clone());
        }
    }

    /// Enters an event, the next in its shard, with the actions it calls for. Returns which of
    /// them are still to be done, by their place in `actions`.
    pub fn enter(
        &mut self,
        (shard, window, id): Place,
        event: Mark,
        actions: &[ActionName],
    ) -> Vec<usize> {
        let Some(shard) = self.shards.get_mut(&shard) else {
            return Vec::new();
        };
        if let Some(window) = shard.windows.get(&window) {
            shard.reached = Position::within(window, id);
        }
        shard.dirty = true;
        shard.read_on();
        let done_before = match shard.resumed.take(id) {
            Done::Nothing => done_by_others(&shard.pre_reshard, id, event),
            done => done,
        };
        if actions.is_empty() {
            return Vec::new();
        }
        let (over, left): (Vec<usize>, Vec<usize>) =
            (0..actions.len()).partition(|n| done_before.covers(&actions[*n]));
        if left.is_empty() && shard.entries.is_empty() {
            return left;
        }
        self.pending += left.len();
        let done = over.into_iter().map(|n| actions[n].clone()).collect();
        shard.entries.insert(
            (window, id),
            Entry {
                since: event.since,
                left: left.len(),
                done,
            },
        );
        left
    }

    /// Moves a shard on past all that was entered.
    pub fn reach(&mut self, shard: u16, position: Position, worth_saving: bool) {
        if let Some(shard) = self.shards.get_mut(&shard) {
            shard.reached = position;
            shard.dirty |= worth_saving;
            shard.read_on();
        }
    }

    /// An action of an event is over, for good or by a dead letter that the next save carries.
    pub fn done(&mut self, place: Place, action: ActionName) {
        self.passed(place, action);
        self.got_on(place.0);
    }

    /// Something got done of a shard.
    pub fn got_on(&mut self, shard: u16) {
        if let Some(shard) = self.shards.get_mut(&shard) {
            shard.progress += 1;
        }
    }

    /// Tells which shards have jobs that wait.
    pub fn have_jobs(&mut self, shards: &BTreeSet<u16>) {
        for (n, shard) in &mut self.shards {
            shard.has_jobs = shards.contains(n);
        }
    }

    /// An action of an event has become a job that the next save carries.
    pub fn passed(&mut self, (shard, window, id): Place, action: ActionName) {
        let Some(shard) = self.shards.get_mut(&shard) else {
            return;
        };
        let Some(entry) = shard.entries.get_mut(&(window, id)) else {
            return;
        };
        debug_assert!(entry.left > 0, "an action ends once");
        entry.left = entry.left.saturating_sub(1);
        entry.done.push(action);
        self.pending = self.pending.saturating_sub(1);
        shard.dirty = true;
    }

    /// Actions entered and not over.
    #[must_use]
    pub const fn pending(&self) -> usize {
        self.pending
    }

    /// Events that are over but lie beyond a position, with those that are not over.
    #[must_use]
    pub fn entries(&self) -> usize {
        self.shards.values().map(|shard| shard.entries.len()).sum()
    }

    /// For each shard, when its oldest event that is not over was committed, if there is one.
    pub fn oldest(&self) -> impl Iterator<Item = (u16, Option<DateTime<Utc>>)> {
        let first = |shard: &Shard| {
            let mut entries = shard.entries.values();
            entries
                .find(|entry| entry.left > 0)
                .map(|entry| entry.since)
        };
        self.shards.iter().map(move |(n, shard)| (*n, first(shard)))
    }

    /// For each shard a number that grows as it gets on, and whether it has actions that are not
    /// over, or jobs that wait.
    pub fn progress(&self) -> impl Iterator<Item = (u16, u64, bool)> {
        let pending =
            |shard: &Shard| shard.has_jobs || shard.entries.values().any(|entry| entry.left > 0);
        self.shards
            .iter()
            .map(move |(n, shard)| (*n, shard.progress, pending(shard)))
    }

    /// The oldest event of a shard that is not over.
    #[must_use]
    pub fn first_pending(&self, shard: u16) -> Option<Place> {
        let mut entries = self.shards.get(&shard)?.entries.iter();
        let ((window, id), _) = entries.find(|(_, entry)| entry.left > 0)?;
        Some((shard, *window, *id))
    }

    /// How far the shards are that moved since the last call.
    pub fn take(&mut self) -> Vec<(u16, Progress)> {
        let dirty = self.shards.iter_mut().filter(|(_, shard)| shard.dirty);
        dirty.map(|(n, shard)| (*n, shard.take())).collect()
    }
}

impl Shard {
    /// Reading on past an event that does not get over brings nobody on.
    fn read_on(&mut self) {
        self.progress += u64::from(self.entries.is_empty() && !self.has_jobs);
    }

    fn take(&mut self) -> Progress {
        self.dirty = false;
        while let Some(first) = self.entries.first_entry() {
            if first.get().left > 0 {
                break;
            }
            first.remove();
        }
        let head = self.entries.first_key_value().map(|(place, _)| *place);
        let position = if let Some((number, id)) = head {
            self.windows = self.windows.split_off(&number);
            let window = self.windows.get(&number);
            window.map_or_else(
                || self.reached.clone(),
                |window| Position::within(window, id - 1),
            )
        } else {
            // The newest may still be read from.
            if let Some(newest) = self.windows.last_key_value().map(|(number, _)| *number) {
                self.windows = self.windows.split_off(&newest);
            }
            self.reached.clone()
        };
        let mut beyond = self.resumed.clone();
        for ((_, id), entry) in &self.entries {
            if entry.left == 0 {
                beyond.completed.insert(*id);
            } else if !entry.done.is_empty() {
                beyond.partial.insert(*id, entry.done.clone());
            }
        }
        if self.pre_reshard.iter().any(|one| one.is_behind(&position)) {
            let left = self.pre_reshard.iter();
            let left = left.filter(|one| !one.is_behind(&position));
            self.pre_reshard = left.cloned().collect();
        }
        Progress {
            position,
            completed_ahead: beyond,
            pre_reshard: Arc::clone(&self.pre_reshard),
        }
    }
}

/// What the owners of shards that there are no more had done of an event.
fn done_by_others(pre_reshard: &[PreReshardProgress], id: i64, event: Mark) -> Done {
    let its = pre_reshard
        .iter()
        .filter(|one| shard_of(event.hash, one.shard_count) == one.shard);
    let mut actions = Vec::new();
    for one in its {
        if one.position.passes(event.xid, id) || one.completed_ahead.completed.contains(&id) {
            return Done::All;
        }
        actions.extend(
            one.completed_ahead
                .partial
                .get(&id)
                .into_iter()
                .flatten()
                .cloned(),
        );
    }
    if actions.is_empty() {
        Done::Nothing
    } else {
        Done::Some(actions)
    }
}

/// What is known to be done of one event.
#[derive(Debug)]
enum Done {
    Nothing,
    Some(Vec<ActionName>),
    All,
}

impl Done {
    fn covers(&self, action: &ActionName) -> bool {
        match self {
            Self::Nothing => false,
            Self::Some(actions) => actions.contains(action),
            Self::All => true,
        }
    }
}

impl CompletedAhead {
    fn take(&mut self, id: i64) -> Done {
        if self.completed.is_empty() && self.partial.is_empty() {
            return Done::Nothing;
        }
        if self.completed.remove(&id) {
            return Done::All;
        }
        self.partial.remove(&id).map_or(Done::Nothing, Done::Some)
    }
}

#[cfg(test)]
mod tests;
