//! Postgres of the simulation: an epoch per shard and a position per key, as in the checkpoints,
//! and the change log with the order in which events were processed.

use std::collections::BTreeMap;

use crate::membership::names::ShardId;

pub(super) const KEYS: usize = 24;

/// Position of each key of a shard.
pub(super) type Positions = BTreeMap<usize, u64>;

/// Returns whether a key belongs to a shard.
pub(super) fn belongs_to(key: usize, shard_id: ShardId) -> bool {
    key.wrapping_mul(2_654_435_761) % usize::from(shard_id.shard_count)
        == usize::from(shard_id.shard)
}

/// Checkpoints: an epoch per shard, a position per key.
#[derive(Default)]
pub(super) struct Database {
    layout: u16,
    epochs: BTreeMap<u16, u64>,
    last_epoch: u64,
    saved: [u64; KEYS],
    savers: BTreeMap<u64, (usize, u64)>,
    progress: BTreeMap<u64, u64>,
    pub(super) reshards: u32,
    pub(super) fenced_saves: u32,
}

impl Database {
    pub(super) fn claim(&mut self, shard_id: ShardId) -> (u64, Positions) {
        if self.layout != shard_id.shard_count {
            self.layout = shard_id.shard_count;
            self.reshards += 1;
            self.epochs = (0..shard_id.shard_count)
                .map(|shard| (shard, self.last_epoch + 1))
                .collect();
        }
        self.last_epoch += 2;
        self.epochs.insert(shard_id.shard, self.last_epoch);
        let keys = (0..KEYS).filter(|key| belongs_to(*key, shard_id));
        (
            self.last_epoch,
            keys.map(|key| (key, self.saved[key])).collect(),
        )
    }

    /// Saves positions. Returns whether the epoch was accepted.
    pub(super) fn save(
        &mut self,
        shard_id: ShardId,
        epoch: u64,
        who: (usize, u64),
        positions: &Positions,
    ) -> Result<bool, String> {
        if self.layout != shard_id.shard_count || self.epochs.get(&shard_id.shard) != Some(&epoch) {
            self.fenced_saves += 1;
            return Ok(false);
        }
        let saver = *self.savers.entry(epoch).or_insert(who);
        if saver != who {
            return Err(format!("{saver:?} and {who:?} both save in epoch {epoch}"));
        }
        // Positions only advance: a save that a later one of the same epoch has overtaken does
        // nothing.
        let progress: u64 = positions.values().sum();
        let before = self.progress.entry(epoch).or_insert(progress);
        if progress < *before {
            return Ok(true);
        }
        *before = progress;
        for (key, position) in positions {
            if *position < self.saved[*key] {
                return Err(format!("the position of key {key} goes back"));
            }
            self.saved[*key] = *position;
        }
        Ok(true)
    }

    pub(super) fn is_saved(&self, log: &EventLog) -> bool {
        self.saved == log.written
    }
}

/// Change log, with what was processed.
#[derive(Default)]
pub(super) struct EventLog {
    pub(super) written: [u64; KEYS],
    /// Number of events of each key that were processed at least once.
    handled: [u64; KEYS],
    pub(super) redeliveries: u64,
}

impl EventLog {
    pub(super) fn handle(&mut self, key: usize, event: u64) -> Result<(), String> {
        if event > self.handled[key] {
            return Err(format!("event {event} of key {key} is handled too early"));
        }
        self.redeliveries += u64::from(event < self.handled[key]);
        self.handled[key] = self.handled[key].max(event + 1);
        Ok(())
    }

    pub(super) fn is_handled(&self) -> bool {
        self.handled == self.written
    }
}
