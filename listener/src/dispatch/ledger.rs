//! Ledger of deliveries: what is completed, and therefore how far each shard may be saved.
//!
//! Deliveries complete in any order; a position may pass an event only when it and all before it are
//! completed. What is completed ahead of the position is listed beside it, so that a reader which
//! starts there repeats only what was in flight at the last commit.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use chrono::{DateTime, Utc};

use crate::capture::position::{Position, Window};
use crate::capture::reader::shard_of;
use crate::checkpoint::{CompletedAhead, PreReshardProgress, Progress};
use crate::delivery::ActionName;

/// A reference to an event: shard, number of the window, id in the log.
pub type EventRef = (u16, u64, i64);

/// The origin of an event, which tells whether earlier owners had completed it.
#[derive(Clone, Copy, Debug)]
pub struct EventOrigin {
    /// Hash of tenant, entity and key.
    pub hash: u32,
    /// The transaction that wrote it.
    pub xid: u64,
    /// When that transaction committed, approximately.
    pub occurred_at: DateTime<Utc>,
}

/// An event with pending deliveries, or one after such an event.
#[derive(Debug)]
struct Entry {
    occurred_at: DateTime<Utc>,
    pending: usize,
    completed: Vec<ActionName>,
}

/// The ledger of one shard.
#[derive(Debug)]
struct ShardLedger {
    reached: Position,
    windows: BTreeMap<u64, Window>,
    entries: BTreeMap<(u64, i64), Entry>,
    /// What an earlier owner had completed ahead of its position, until it is read again.
    restored: CompletedAhead,
    /// What other shards had completed before resharding, until the position is past it.
    pre_reshard: Arc<[PreReshardProgress]>,
    dirty: bool,
    /// Grows with all progress of the shard.
    progress: u64,
    /// The queue has jobs of it.
    has_jobs: bool,
}

/// The ledger of all owned shards.
#[derive(Debug, Default)]
pub struct Ledger {
    shards: BTreeMap<u16, ShardLedger>,
    pending: usize,
}

impl Ledger {
    /// Adds a shard at the progress of its checkpoint.
    pub fn add_shard(&mut self, shard: u16, progress: Progress) {
        self.remove_shard(shard);
        let ledger = ShardLedger {
            reached: progress.position,
            windows: BTreeMap::new(),
            entries: BTreeMap::new(),
            restored: progress.completed_ahead,
            pre_reshard: progress.pre_reshard,
            dirty: false,
            progress: 0,
            has_jobs: false,
        };
        self.shards.insert(shard, ledger);
    }

    /// Removes a shard.
    pub fn remove_shard(&mut self, shard: u16) {
        if let Some(gone) = self.shards.remove(&shard) {
            let left: usize = gone.entries.values().map(|entry| entry.pending).sum();
            self.pending = self.pending.saturating_sub(left);
        }
    }

    /// Opens a window, before its events are registered.
    pub fn open_window(&mut self, shard: u16, number: u64, window: &Window) {
        if let Some(shard) = self.shards.get_mut(&shard) {
            shard
                .windows
                .entry(number)
                .or_insert_with(|| window.clone());
        }
    }

    /// Registers the next event of its shard with the actions that match it. Returns the indexes in
    /// `actions` of those that are not completed yet.
    pub fn register(
        &mut self,
        (shard, window, id): EventRef,
        event: EventOrigin,
        actions: &[ActionName],
    ) -> Vec<usize> {
        let Some(shard) = self.shards.get_mut(&shard) else {
            return Vec::new();
        };
        if let Some(window) = shard.windows.get(&window) {
            shard.reached = Position::within(window, id);
        }
        shard.dirty = true;
        shard.record_read();
        let prior = match shard.restored.take(id) {
            PriorCompletion::None => completed_before_reshard(&shard.pre_reshard, id, event),
            done => done,
        };
        if actions.is_empty() {
            return Vec::new();
        }
        let (done, left): (Vec<usize>, Vec<usize>) =
            (0..actions.len()).partition(|n| prior.covers(&actions[*n]));
        if left.is_empty() && shard.entries.is_empty() {
            return left;
        }
        self.pending += left.len();
        let completed = done.into_iter().map(|n| actions[n].clone()).collect();
        shard.entries.insert(
            (window, id),
            Entry {
                occurred_at: event.occurred_at,
                pending: left.len(),
                completed,
            },
        );
        left
    }

    /// Advances a shard past all events that were registered.
    pub fn advance(&mut self, shard: u16, position: Position, worth_saving: bool) {
        if let Some(shard) = self.shards.get_mut(&shard) {
            shard.reached = position;
            shard.dirty |= worth_saving;
            shard.record_read();
        }
    }

    /// Completes an action of an event: it was delivered, or the next commit has its dead letter.
    pub fn complete(&mut self, event: EventRef, action: ActionName) {
        self.hand_to_queue(event, action);
        self.record_progress(event.0);
    }

    /// Records progress of a shard.
    pub fn record_progress(&mut self, shard: u16) {
        if let Some(shard) = self.shards.get_mut(&shard) {
            shard.progress += 1;
        }
    }

    /// Sets which shards have jobs in the queue.
    pub fn set_shards_with_jobs(&mut self, shards: &BTreeSet<u16>) {
        for (n, shard) in &mut self.shards {
            shard.has_jobs = shards.contains(n);
        }
    }

    /// Records that an action of an event is a job of the next commit.
    pub fn hand_to_queue(&mut self, (shard, window, id): EventRef, action: ActionName) {
        let Some(shard) = self.shards.get_mut(&shard) else {
            return;
        };
        let Some(entry) = shard.entries.get_mut(&(window, id)) else {
            return;
        };
        debug_assert!(entry.pending > 0, "an action completes once");
        entry.pending = entry.pending.saturating_sub(1);
        entry.completed.push(action);
        self.pending = self.pending.saturating_sub(1);
        shard.dirty = true;
    }

    /// Returns the number of registered actions that are not completed.
    #[must_use]
    pub const fn pending(&self) -> usize {
        self.pending
    }

    /// Returns the number of events ahead of the positions that are tracked.
    #[must_use]
    pub fn tracked_events(&self) -> usize {
        self.shards.values().map(|shard| shard.entries.len()).sum()
    }

    /// Returns for each shard when its oldest pending event was committed, if there is one.
    pub fn oldest_pending(&self) -> impl Iterator<Item = (u16, Option<DateTime<Utc>>)> {
        let first = |shard: &ShardLedger| {
            let mut entries = shard.entries.values();
            entries
                .find(|entry| entry.pending > 0)
                .map(|entry| entry.occurred_at)
        };
        self.shards.iter().map(move |(n, shard)| (*n, first(shard)))
    }

    /// Returns for each shard a number that grows with its progress, and whether it has pending actions
    /// or jobs.
    pub fn progress(&self) -> impl Iterator<Item = (u16, u64, bool)> {
        let pending = |shard: &ShardLedger| {
            shard.has_jobs || shard.entries.values().any(|entry| entry.pending > 0)
        };
        self.shards
            .iter()
            .map(move |(n, shard)| (*n, shard.progress, pending(shard)))
    }

    /// Returns the oldest pending event of a shard.
    #[must_use]
    pub fn first_pending(&self, shard: u16) -> Option<EventRef> {
        let mut entries = self.shards.get(&shard)?.entries.iter();
        let ((window, id), _) = entries.find(|(_, entry)| entry.pending > 0)?;
        Some((shard, *window, *id))
    }

    /// Returns the progress of the shards that moved since the last call.
    pub fn take_progress(&mut self) -> Vec<(u16, Progress)> {
        let dirty = self.shards.iter_mut().filter(|(_, shard)| shard.dirty);
        dirty
            .map(|(n, shard)| (*n, shard.take_progress()))
            .collect()
    }
}

impl ShardLedger {
    /// Counts reading as progress, unless an event or a job is pending.
    fn record_read(&mut self) {
        self.progress += u64::from(self.entries.is_empty() && !self.has_jobs);
    }

    fn take_progress(&mut self) -> Progress {
        self.dirty = false;
        while let Some(first) = self.entries.first_entry() {
            if first.get().pending > 0 {
                break;
            }
            first.remove();
        }
        let head = self.entries.first_key_value().map(|(event, _)| *event);
        let position = if let Some((number, id)) = head {
            self.windows = self.windows.split_off(&number);
            let window = self.windows.get(&number);
            window.map_or_else(
                || self.reached.clone(),
                |window| Position::within(window, id - 1),
            )
        } else {
            // The newest window may still be read.
            if let Some(newest) = self.windows.last_key_value().map(|(number, _)| *number) {
                self.windows = self.windows.split_off(&newest);
            }
            self.reached.clone()
        };
        let mut beyond = self.restored.clone();
        for ((_, id), entry) in &self.entries {
            if entry.pending == 0 {
                beyond.completed.insert(*id);
            } else if !entry.completed.is_empty() {
                beyond.partial.insert(*id, entry.completed.clone());
            }
        }
        if self
            .pre_reshard
            .iter()
            .any(|one| one.is_passed_by(&position))
        {
            let left = self.pre_reshard.iter();
            let left = left.filter(|one| !one.is_passed_by(&position));
            self.pre_reshard = left.cloned().collect();
        }
        Progress {
            position,
            completed_ahead: beyond,
            pre_reshard: Arc::clone(&self.pre_reshard),
        }
    }
}

/// Returns what other shards had completed of an event before resharding.
fn completed_before_reshard(
    pre_reshard: &[PreReshardProgress],
    id: i64,
    event: EventOrigin,
) -> PriorCompletion {
    let its = pre_reshard
        .iter()
        .filter(|one| shard_of(event.hash, one.shard_count) == one.shard);
    let mut actions = Vec::new();
    for one in its {
        if one.position.passes(event.xid, id) || one.completed_ahead.completed.contains(&id) {
            return PriorCompletion::All;
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
        PriorCompletion::None
    } else {
        PriorCompletion::Actions(actions)
    }
}

/// What was completed of an event before it was registered.
#[derive(Debug)]
enum PriorCompletion {
    None,
    Actions(Vec<ActionName>),
    All,
}

impl PriorCompletion {
    fn covers(&self, action: &ActionName) -> bool {
        match self {
            Self::None => false,
            Self::Actions(actions) => actions.contains(action),
            Self::All => true,
        }
    }
}

impl CompletedAhead {
    fn take(&mut self, id: i64) -> PriorCompletion {
        if self.completed.is_empty() && self.partial.is_empty() {
            return PriorCompletion::None;
        }
        if self.completed.remove(&id) {
            return PriorCompletion::All;
        }
        self.partial
            .remove(&id)
            .map_or(PriorCompletion::None, PriorCompletion::Actions)
    }
}

#[cfg(test)]
mod tests;
