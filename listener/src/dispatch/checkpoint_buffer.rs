//! When progress is saved.

use std::collections::BTreeMap;
use std::sync::Arc;

use chrono::{DateTime, Utc};
use tokio::time::Instant;
use uuid::Uuid;

use super::checkpoint_writer::CommitReport;
use super::in_flight::weight;
use super::owned_shard::Owned;
use super::{Dispatcher, MAX_REDRIVES};
use crate::capture::change_log::ShardFilter;
use crate::checkpoint::CheckpointCommit;
use crate::dead_letters::store::{self, Verdict};

impl Dispatcher {
    /// Saves what is worth it, and measures.
    pub(crate) fn tick(&mut self) {
        self.save();
        let metrics = &self.setup.writer.metrics;
        let number = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);
        metrics.in_flight.set(number(self.lanes.running()));
        metrics.pending.set(number(self.ledger.pending()));
        metrics
            .backlog
            .set(i64::try_from(self.backlog).unwrap_or(i64::MAX));
        let unread = self.last_read.filter(|_| self.backlog > 0);
        let now = Utc::now();
        let age = |since: DateTime<Utc>| (now - since).as_seconds_f64().max(0.0);
        let lags = self.ledger.oldest_pending();
        let lags = lags.map(|(shard, oldest)| (shard, oldest.or(unread).map_or(0.0, age)));
        let lags: BTreeMap<u16, f64> = lags.collect();
        metrics.lag.set(lags.values().copied().fold(0.0, f64::max));
        self.setup.reporter.lags(&lags);
    }

    /// Hands what is unsaved to the writer, unless it is still busy.
    pub(crate) fn save(&mut self) {
        if !self.saves.is_empty() {
            return;
        }
        self.last_save = Instant::now();
        self.job_due = false;
        let what = self.unsaved_now();
        if !what.is_empty() {
            self.saves.spawn(self.setup.writer.clone().write(what));
        }
    }

    fn unsaved_now(&mut self) -> CheckpointCommit {
        let mut what = std::mem::take(&mut self.unsaved);
        what.positions = self.ledger.take_progress();
        what.released_shards = self.ready_to_go();
        what.id = Uuid::new_v4();
        let jobs = what.jobs.iter().map(|(shard, _)| *shard);
        let moved = what.positions.iter().map(|(shard, _)| *shard);
        let letters = what.dead_letters.iter().map(|(shard, _)| *shard);
        let verdicts = what.redrive_results.iter().map(|(shard, _)| *shard);
        let concerned = moved.chain(letters).chain(verdicts).chain(jobs);
        let concerned = concerned.chain(what.released_shards.iter().copied());
        let epoch = |shard: u16| Some((shard, self.shards.get(&shard)?.epoch));
        what.epochs = concerned.filter_map(epoch).collect();
        what
    }

    /// A save is through.
    pub(crate) fn saved(&mut self, written: CommitReport) {
        for event in written
            .commit
            .retained_events()
            .chain(&written.fenced_events)
        {
            self.held = self.held.saturating_sub(weight(event));
        }
        self.enqueued(&written.commit.jobs);
        for (_, verdict) in &written.commit.redrive_results {
            let (Verdict::Settled(id) | Verdict::Failed { id, .. }) = verdict;
            self.redriving.remove(id);
        }
        for (shard, epoch) in written.fenced {
            self.fenced(shard, epoch);
        }
        for shard in &written.commit.released_shards {
            let same = |owned: &Owned| written.commit.epochs.get(shard) == Some(&owned.epoch);
            if self.shards.get(shard).is_some_and(same) {
                self.forget(*shard);
            }
        }
        // What became ready to be let go of meanwhile is not to wait for the next tick.
        self.let_go();
    }

    /// Looks for dead letters to redrive, when there is room for some.
    pub(crate) fn look_for_redrives(&mut self) {
        let room = MAX_REDRIVES.saturating_sub(self.redriving.len());
        if room == 0 || !self.polls.is_empty() {
            return;
        }
        let shards: Vec<u16> = self.shards.keys().copied().collect();
        if shards.is_empty() {
            return;
        }
        let pool = self.setup.writer.pool.clone();
        let listener = Arc::clone(&self.setup.writer.listener);
        let besides: Vec<i64> = self.redriving.keys().copied().collect();
        let most = i64::try_from(room).unwrap_or(1);
        let of = self.setup.shards;
        self.polls.spawn(async move {
            let filter = ShardFilter {
                shards: &shards,
                shard_count: of,
            };
            store::requested(&pool, &listener, filter, &besides, most).await
        });
    }
}
