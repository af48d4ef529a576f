//! The shards that come and go while the others are worked on.

use std::collections::BTreeSet;
use std::time::Duration;

use ::queue::LanesOfAction;
use tokio::sync::oneshot;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::in_flight::weight;
use super::{Dispatcher, LAST_SAVE};
use crate::capture::reader::shard_of;
use crate::checkpoint::ClaimedShard;

/// What a dispatcher is asked to do about a shard.
#[derive(Debug)]
pub enum Command {
    /// To work on it from now on.
    Add {
        /// The shard.
        claimed: ClaimedShard,
        /// The lanes of it that have jobs.
        jobs: Vec<LanesOfAction>,
        /// How long the work may go on.
        right: Right,
    },
    /// To finish what of it is under way, save, and let go of it.
    Leave {
        /// The shard.
        shard: u16,
        /// How long what is under way may take; the save comes after that.
        drain: Duration,
        /// Told once nothing of it is under way any more. Nothing of it is saved after that.
        done: oneshot::Sender<()>,
    },
}

/// How long the work on a shard may go on.
#[derive(Clone, Debug)]
pub struct Right {
    /// Cancelled when it must stop at once: then attempts are cut off.
    pub cut: CancellationToken,
    /// Cancelled by the dispatcher when another process has claimed the shard.
    pub fenced: CancellationToken,
}

/// A shard at work.
#[derive(Debug)]
pub(crate) struct Owned {
    pub(crate) epoch: i64,
    pub(crate) right: Right,
    /// Attempts under way.
    pub(crate) running: usize,
    leaving: Option<Leaving>,
}

#[derive(Debug)]
struct Leaving {
    /// When attempts are cut off.
    cut: Instant,
    /// When it is let go of, saved or not.
    end: Instant,
    done: oneshot::Sender<()>,
}

impl Owned {
    /// Whether nothing more of it is to be begun.
    pub(crate) const fn is_leaving(&self) -> bool {
        self.leaving.is_some()
    }
}

impl Dispatcher {
    pub(crate) fn command(&mut self, command: Command) {
        match command {
            Command::Add {
                claimed,
                jobs,
                right,
            } => self.add(claimed, &jobs, right),
            Command::Leave { shard, drain, done } => self.leave(shard, drain, done),
        }
    }

    fn add(&mut self, claimed: ClaimedShard, jobs: &[LanesOfAction], right: Right) {
        let ClaimedShard {
            shard,
            epoch,
            progress,
            ..
        } = claimed;
        self.forget(shard);
        self.has_jobs(jobs);
        self.setup
            .assigned
            .send_modify(|all| drop(all.insert(shard, (epoch, progress.position.clone()))));
        self.ledger.add_shard(shard, progress);
        let owned = Owned {
            epoch,
            right,
            running: 0,
            leaving: None,
        };
        self.shards.insert(shard, owned);
    }

    fn leave(&mut self, shard: u16, drain: Duration, done: oneshot::Sender<()>) {
        let Some(owned) = self.shards.get_mut(&shard) else {
            // It is gone already; whoever asked may be gone too.
            let _gone = done.send(());
            return;
        };
        let now = Instant::now();
        owned.leaving = Some(Leaving {
            cut: now + drain,
            end: now + drain + LAST_SAVE,
            done,
        });
        self.read_no_more(shard);
        self.let_go();
    }

    /// Takes in nothing more of a shard, and begins nothing more of it.
    fn read_no_more(&mut self, shard: u16) {
        self.setup
            .assigned
            .send_modify(|all| drop(all.remove(&shard)));
        let of = self.setup.shards;
        for work in self.lanes.remove_lanes(|hash| shard_of(hash, of) == shard) {
            self.held = self.held.saturating_sub(weight(&work.event));
        }
    }

    /// Cuts off what takes too long of the shards that are being left, and saves those of which
    /// nothing is under way any more.
    pub(crate) fn let_go(&mut self) {
        let now = Instant::now();
        let mut late = Vec::new();
        let mut ready = false;
        for (shard, owned) in &self.shards {
            let Some(leaving) = &owned.leaving else {
                continue;
            };
            if now >= leaving.cut && owned.running > 0 && !owned.right.cut.is_cancelled() {
                let attempts = owned.running;
                tracing::warn!(
                    shard,
                    attempts,
                    "cutting off what is under way; it will be delivered again"
                );
                owned.right.cut.cancel();
            }
            if now >= leaving.end {
                late.push(*shard);
            }
            ready |= owned.running == 0;
        }
        for shard in late {
            tracing::warn!(
                shard,
                "could not save a shard that is let go of; what was not saved is done again"
            );
            self.setup.writer.health.left_unsaved();
            self.forget(shard);
        }
        if ready {
            self.save();
        }
    }

    /// Shards of which nothing is under way and which are to be let go of.
    pub(crate) fn ready_to_go(&self) -> BTreeSet<u16> {
        let ready = self
            .shards
            .iter()
            .filter(|(_, owned)| owned.leaving.is_some() && owned.running == 0);
        ready.map(|(shard, _)| *shard).collect()
    }

    /// When the next of the shards that are being left must be looked after.
    pub(crate) fn next_end(&self) -> Option<Instant> {
        let leaving = self.shards.values().filter_map(|owned| {
            let leaving = owned.leaving.as_ref()?;
            let cut = owned.running > 0 && !owned.right.cut.is_cancelled();
            Some(if cut { leaving.cut } else { leaving.end })
        });
        leaving.min()
    }

    /// Forgets a shard and all that is not saved of it. Attempts that are under way are cut off.
    pub(crate) fn forget(&mut self, shard: u16) {
        let Some(owned) = self.shards.remove(&shard) else {
            return;
        };
        owned.right.cut.cancel();
        self.read_no_more(shard);
        self.ledger.remove_shard(shard);
        let of = self.setup.shards;
        self.queued.remove_lanes(|hash| shard_of(hash, of) == shard);
        if self.shards.is_empty() {
            self.backlog = 0;
        }
        for event in self.unsaved.drop_shards(&BTreeSet::from([shard])) {
            self.held = self.held.saturating_sub(weight(&event));
        }
        self.redriving.retain(|_, of| *of != shard);
        if let Some(leaving) = owned.leaving {
            // Whoever asked may be gone.
            let _gone = leaving.done.send(());
        }
    }

    /// Another process has claimed a shard: work on it ends at once, and nothing of it is written.
    pub(crate) fn fenced(&mut self, shard: u16, epoch: i64) {
        let Some(owned) = self.shards.get(&shard).filter(|owned| owned.epoch == epoch) else {
            return;
        };
        tracing::warn!(
            shard,
            epoch,
            "fenced: another process has claimed the shard, so nothing more of it is saved here"
        );
        self.setup.writer.metrics.fenced.inc();
        let fenced = owned.right.fenced.clone();
        self.forget(shard);
        fenced.cancel();
    }
}
