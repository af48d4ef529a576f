//! What is done and what is not, and therefore how far each shard may be saved.
//!
//! Events end in any order; a position may pass an event only when it and all before it are
//! over. What is over beyond the position is listed beside it, so that a reader which starts
//! there repeats only what was under way since the last save.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};

use crate::checkpoint::{Action, Beyond, Progress};
use crate::source::position::{Position, Window};

/// An event's place: shard, number of the window, id in the log.
pub type Place = (usize, u64, i64);

#[derive(Debug)]
struct Entry {
    since: DateTime<Utc>,
    left: usize,
    done: Vec<Action>,
}

#[derive(Debug)]
struct Shard {
    reached: Position,
    windows: BTreeMap<u64, Window>,
    entries: BTreeMap<(u64, i64), Entry>,
    /// What an earlier owner had done beyond its position, until it is read again.
    resumed: Beyond,
    dirty: bool,
}

/// The ledger of all shards.
#[derive(Debug)]
pub struct Ledger {
    shards: Vec<Shard>,
    pending: usize,
}

impl Ledger {
    /// Begins where each shard's checkpoint stands.
    #[must_use]
    pub fn new(start: Vec<Progress>) -> Self {
        let shards = start
            .into_iter()
            .map(|progress| Shard {
                reached: progress.position,
                windows: BTreeMap::new(),
                entries: BTreeMap::new(),
                resumed: progress.beyond,
                dirty: false,
            })
            .collect();
        Self { shards, pending: 0 }
    }

    /// The events of a window are about to be entered.
    pub fn open(&mut self, shard: usize, number: u64, window: &Window) {
        if let Some(shard) = self.shards.get_mut(shard) {
            shard
                .windows
                .entry(number)
                .or_insert_with(|| window.clone());
        }
    }

    /// Enters an event, the next in its shard, with the actions it calls for. Returns which of
    /// them are still to be done, by their place in `actions`. `since` is when it was committed.
    pub fn enter(
        &mut self,
        (shard, window, id): Place,
        since: DateTime<Utc>,
        actions: &[Action],
    ) -> Vec<usize> {
        let Some(shard) = self.shards.get_mut(shard) else {
            return Vec::new();
        };
        if let Some(window) = shard.windows.get(&window) {
            shard.reached = Position::within(window, id);
        }
        shard.dirty = true;
        let done_before = shard.resumed.take(id);
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
                since,
                left: left.len(),
                done,
            },
        );
        left
    }

    /// Moves a shard on past all that was entered.
    pub fn reach(&mut self, shard: usize, position: Position, worth_saving: bool) {
        if let Some(shard) = self.shards.get_mut(shard) {
            shard.reached = position;
            shard.dirty |= worth_saving;
        }
    }

    /// An action of an event is over, for good or by a dead letter that the next save carries.
    pub fn done(&mut self, (shard, window, id): Place, action: Action) {
        let Some(shard) = self.shards.get_mut(shard) else {
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
        self.shards.iter().map(|shard| shard.entries.len()).sum()
    }

    /// When the oldest event that is not over was committed.
    #[must_use]
    pub fn oldest(&self) -> Option<DateTime<Utc>> {
        let first = |shard: &Shard| {
            shard
                .entries
                .values()
                .find(|entry| entry.left > 0)
                .map(|entry| entry.since)
        };
        self.shards.iter().filter_map(first).min()
    }

    /// How far the shards are that moved since the last call, by their index.
    pub fn take(&mut self) -> Vec<(usize, Progress)> {
        let dirty = self
            .shards
            .iter_mut()
            .enumerate()
            .filter(|(_, shard)| shard.dirty);
        dirty.map(|(n, shard)| (n, shard.take())).collect()
    }
}

impl Shard {
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
                beyond.finished.insert(*id);
            } else if !entry.done.is_empty() {
                beyond.partly.insert(*id, entry.done.clone());
            }
        }
        Progress { position, beyond }
    }
}

/// What is known to be done of one event.
#[derive(Debug)]
enum Done {
    Nothing,
    Some(Vec<Action>),
    All,
}

impl Done {
    fn covers(&self, action: &Action) -> bool {
        match self {
            Self::Nothing => false,
            Self::Some(actions) => actions.contains(action),
            Self::All => true,
        }
    }
}

impl Beyond {
    fn take(&mut self, id: i64) -> Done {
        if self.finished.is_empty() && self.partly.is_empty() {
            return Done::Nothing;
        }
        if self.finished.remove(&id) {
            return Done::All;
        }
        self.partly.remove(&id).map_or(Done::Nothing, Done::Some)
    }
}

#[cfg(test)]
mod tests;
