//! When progress is saved, and how a stop ends.

use std::sync::Arc;
use std::time::Duration;

use chrono::Utc;
use tokio::time::{Instant, timeout_at};

use super::work::weight;
use super::{DispatchError, Dispatcher, MAX_REDRIVES};
use crate::checkpoint::{CheckpointError, Save};
use crate::queue::dead_letter::{self, Verdict};

/// How long the last save of a graceful stop may take beyond the drain.
const LAST_SAVE: Duration = Duration::from_secs(5);

impl Dispatcher {
    /// Saves what is worth it, and measures.
    pub(super) fn tick(&mut self) {
        self.save();
        let metrics = &self.setup.saver.metrics;
        let number = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);
        metrics.in_flight.set(number(self.lanes.running()));
        metrics.waiting.set(number(self.lanes.waiting()));
        metrics.pending.set(number(self.ledger.pending()));
        metrics
            .backlog
            .set(i64::try_from(self.backlog).unwrap_or(i64::MAX));
        let behind = self
            .ledger
            .oldest()
            .or_else(|| self.last_read.filter(|_| self.backlog > 0));
        let lag = behind.map_or(0.0, |since| (Utc::now() - since).as_seconds_f64().max(0.0));
        metrics.lag.set(lag);
    }

    /// Hands what is unsaved to the saver, unless it is still busy.
    pub(super) fn save(&mut self) {
        if !self.saves.is_empty() {
            return;
        }
        let what = self.unsaved_now();
        if !what.is_empty() {
            self.saves.spawn(self.setup.saver.clone().save(what));
        }
    }

    fn unsaved_now(&mut self) -> Save {
        let mut what = std::mem::take(&mut self.unsaved);
        for (n, progress) in self.ledger.take() {
            if let Some(shard) = self.setup.claim.shards.get(n) {
                what.shards.push((shard.shard, shard.epoch, progress));
            }
        }
        what
    }

    /// A save is through.
    pub(super) fn saved(&mut self, what: &Save) {
        for letter in &what.letters {
            self.held = self.held.saturating_sub(weight(&letter.event));
        }
        for verdict in &what.verdicts {
            let (Verdict::Settled(id) | Verdict::Failed { id, .. }) = verdict;
            self.redriving.remove(id);
        }
    }

    /// Looks for dead letters to redrive, when there is room for some.
    pub(super) fn look_for_redrives(&mut self) {
        let room = MAX_REDRIVES.saturating_sub(self.redriving.len());
        if room == 0 || !self.polls.is_empty() {
            return;
        }
        let pool = self.setup.saver.pool.clone();
        let listener = Arc::clone(&self.setup.saver.tenure.listener);
        let besides: Vec<i64> = self.redriving.iter().copied().collect();
        let most = i64::try_from(room).unwrap_or(1);
        self.polls
            .spawn(async move { dead_letter::requested(&pool, &listener, &besides, most).await });
    }

    /// Starts nothing more, waits for what is under way, and saves. What had to be cut off is
    /// delivered again at the next start, with the same id.
    pub(super) async fn stop(mut self) -> Result<(), DispatchError> {
        let deadline = Instant::now() + self.setup.drain;
        while !self.attempts.is_empty() {
            match timeout_at(deadline, self.attempts.join_next()).await {
                Ok(Some(ended)) => self.ended(ended?),
                Ok(None) => break,
                Err(_) => {
                    tracing::warn!(
                        attempts = self.attempts.len(),
                        "the drain timeout is over: cutting off what is under way; it will be delivered again"
                    );
                    self.attempts.shutdown().await;
                }
            }
        }
        let deadline = Instant::now() + LAST_SAVE;
        while let Ok(Some(saved)) = timeout_at(deadline, self.saves.join_next()).await {
            self.saved(&saved??);
        }
        let what = self.unsaved_now();
        let saver = &self.setup.saver;
        let (pool, tenure) = (saver.pool.clone(), saver.tenure.clone());
        let last = async {
            if !what.is_empty() {
                saver.clone().save(what).await?;
            }
            crate::checkpoint::release(&pool, &tenure).await
        };
        match timeout_at(deadline, last).await {
            Ok(result) => Ok(result?),
            Err(_) => Err(CheckpointError::Database(sqlx::Error::PoolTimedOut).into()),
        }
    }
}
