//! From one place to another: jobs are added to the new one, and those that the old one still has
//! are worked on first, action by action.
//!
//! A lane with jobs in both has those in the old one before those in the new one. So of an action
//! that has any there, none is claimed in the new one.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use sqlx::PgConnection;
use tokio::time::Instant;

use crate::{
    ActionLanes, Alive, Burial, Claim, Ended, Figures, First, JobQueue, Kept, Lane, NewJob,
    QueueError, Run, Selection, Shown, Want, WorkerId,
};

/// How long after its beginning the old place may be given jobs by processes that do not know
/// better yet.
pub const OVERLAP: Duration = Duration::from_mins(2);

/// Between two looks whether it is empty.
const LOOK_EVERY: Duration = Duration::from_secs(10);

/// Marks claims in the old place.
const OLD: char = '~';

/// Two places, one after the other.
#[derive(Debug)]
pub struct Draining {
    old: Arc<dyn JobQueue>,
    new: Arc<dyn JobQueue>,
    begun: Instant,
    /// The old place was seen without jobs after everybody knew better.
    drained: AtomicBool,
    /// When that was looked for, in seconds since the beginning.
    looked: AtomicU64,
}

impl Draining {
    /// Works off what `old` holds before what is added to `new`.
    #[must_use]
    pub fn new(old: Arc<dyn JobQueue>, new: Arc<dyn JobQueue>) -> Self {
        Self {
            old,
            new,
            begun: Instant::now(),
            drained: AtomicBool::new(false),
            looked: AtomicU64::new(0),
        }
    }

    /// Whether the old place holds no job and will be given none any more.
    #[must_use]
    pub fn is_drained(&self) -> bool {
        self.drained.load(Ordering::Relaxed)
    }

    /// The old place, for as long as there may be jobs in it.
    async fn old(&self) -> Option<&dyn JobQueue> {
        if self.is_drained() {
            return None;
        }
        let age = self.begun.elapsed();
        if age > OVERLAP && self.is_time(age) && matches!(self.old.is_empty().await, Ok(true)) {
            self.drained.store(true, Ordering::Relaxed);
            return None;
        }
        Some(&*self.old)
    }

    /// Whether the old place has not been looked at for a while.
    fn is_time(&self, age: Duration) -> bool {
        let last = self.looked.load(Ordering::Relaxed);
        let now = age.as_secs();
        now >= last + LOOK_EVERY.as_secs()
            && self
                .looked
                .compare_exchange(last, now, Ordering::Relaxed, Ordering::Relaxed)
                .is_ok()
    }
}

/// Claims of the old place, and those of the new one.
fn split(ended: &[Ended]) -> (Vec<Ended>, Vec<Ended>) {
    let (mut old, mut new) = (Vec::new(), Vec::new());
    for one in ended {
        let mut one = one.clone();
        if one.claim.place.starts_with(OLD) {
            one.claim.place.remove(0);
            old.push(one);
        } else {
            new.push(one);
        }
    }
    (old, new)
}

fn mark(claim: &mut Claim) {
    claim.place.insert(0, OLD);
}

#[async_trait]
impl JobQueue for Draining {
    async fn enqueue(&self, tx: &mut PgConnection, jobs: &[NewJob]) -> Result<(), QueueError> {
        self.new.enqueue(tx, jobs).await
    }

    async fn claim(&self, worker: WorkerId, want: &Want) -> Result<Vec<Run>, QueueError> {
        let Some(old) = self.old().await else {
            return self.new.claim(worker, want).await;
        };
        let held = old.lanes(&[0], 1, 0).await?;
        if held.is_empty() {
            return self.new.claim(worker, want).await;
        }
        let mut runs = old.claim(worker, want).await?;
        for claimed in runs.iter_mut().flat_map(|run| &mut run.jobs) {
            mark(&mut claimed.claim);
        }
        let held: HashSet<_> = held
            .into_iter()
            .map(|held| (held.observer, held.action))
            .collect();
        let mut rest = want.clone();
        rest.runs = want.runs.saturating_sub(runs.len());
        rest.actions
            .retain(|(observer, action, _)| !held.contains(&(observer.clone(), action.clone())));
        if rest.runs > 0 && !rest.actions.is_empty() {
            // What was claimed already is worked on in any case.
            match self.new.claim(worker, &rest).await {
                Ok(more) => runs.extend(more),
                Err(error) if runs.is_empty() => return Err(error),
                Err(error) => tracing::debug!(%error, "cannot claim jobs; trying again"),
            }
        }
        Ok(runs)
    }

    async fn finish(
        &self,
        worker: WorkerId,
        ended: &[Ended],
        burial: &dyn Burial,
    ) -> Result<Vec<Claim>, QueueError> {
        let (old, new) = split(ended);
        let mut refused = Vec::new();
        // A repeat after a failure in between finds those that it ended before refused: they are
        // told as such, and are as they should be.
        if !old.is_empty() {
            refused = self.old.finish(worker, &old, burial).await?;
            refused.iter_mut().for_each(mark);
        }
        if !new.is_empty() {
            refused.extend(self.new.finish(worker, &new, burial).await?);
        }
        Ok(refused)
    }

    async fn register(&self, worker: WorkerId, name: &str) -> Result<(), QueueError> {
        if let Some(old) = self.old().await {
            old.register(worker, name).await?;
        }
        self.new.register(worker, name).await
    }

    async fn alive(&self, worker: WorkerId) -> Result<Alive, QueueError> {
        let mut all = Vec::new();
        if let Some(old) = self.old().await {
            match old.alive(worker).await? {
                Alive::No => return Ok(Alive::No),
                Alive::Yes { mut cancelled } => {
                    cancelled.iter_mut().for_each(mark);
                    all = cancelled;
                }
            }
        }
        match self.new.alive(worker).await? {
            Alive::No => Ok(Alive::No),
            Alive::Yes { cancelled } => {
                all.extend(cancelled);
                Ok(Alive::Yes { cancelled: all })
            }
        }
    }

    async fn leave(&self, worker: WorkerId) -> Result<(), QueueError> {
        self.old.leave(worker).await?;
        self.new.leave(worker).await
    }

    async fn keep(&self) -> Result<Kept, QueueError> {
        let mut kept = self.new.keep().await?;
        if let Some(old) = self.old().await {
            kept.expired += old.keep().await?.expired;
        }
        Ok(kept)
    }

    async fn firsts(&self, lanes: &[Lane]) -> Result<Vec<Option<First>>, QueueError> {
        let new = self.new.firsts(lanes).await?;
        let Some(old) = self.old().await else {
            return Ok(new);
        };
        let old = old.firsts(lanes).await?;
        Ok(old
            .into_iter()
            .zip(new)
            .map(|(old, new)| old.or(new))
            .collect())
    }

    async fn lanes(
        &self,
        shards: &[u16],
        of: u16,
        most: usize,
    ) -> Result<Vec<ActionLanes>, QueueError> {
        let mut all = self.new.lanes(shards, of, most).await?;
        // It is asked seldom, so the old place is asked in any case.
        let held = self.old.lanes(shards, of, most).await?;
        if !held.is_empty() {
            self.drained.store(false, Ordering::Relaxed);
        }
        for one in held {
            let same = |other: &&mut ActionLanes| {
                (&other.observer, &other.action) == (&one.observer, &one.action)
            };
            match all.iter_mut().find(same) {
                None => all.push(one),
                Some(both) => {
                    both.hashes = match (both.hashes.take(), one.hashes) {
                        (Some(new), Some(old)) => {
                            let all: HashSet<u32> = new.into_iter().chain(old).collect();
                            (all.len() <= most).then(|| all.into_iter().collect())
                        }
                        _ => None,
                    };
                }
            }
        }
        Ok(all)
    }

    async fn figures(&self) -> Result<Vec<(String, Figures)>, QueueError> {
        let mut all = self.new.figures().await?;
        if let Some(old) = self.old().await {
            for (observer, more) in old.figures().await? {
                match all.iter_mut().find(|(known, _)| *known == observer) {
                    Some((_, figures)) => figures.add(&more),
                    None => all.push((observer, more)),
                }
            }
        }
        Ok(all)
    }

    async fn list(&self, what: &Selection, most: usize) -> Result<(Vec<Shown>, u64), QueueError> {
        let (mut jobs, mut count) = self.old.list(what, most).await?;
        let (more, further) = self.new.list(what, most).await?;
        jobs.extend(more);
        jobs.truncate(most);
        count += further;
        Ok((jobs, count))
    }

    async fn show(&self, id: &str) -> Result<Option<Shown>, QueueError> {
        match self.old.show(id).await? {
            Some(shown) => Ok(Some(shown)),
            None => self.new.show(id).await,
        }
    }

    async fn retry(&self, what: &Selection) -> Result<u64, QueueError> {
        Ok(self.old.retry(what).await? + self.new.retry(what).await?)
    }

    async fn cancel(&self, what: &Selection) -> Result<u64, QueueError> {
        Ok(self.old.cancel(what).await? + self.new.cancel(what).await?)
    }

    async fn is_empty(&self) -> Result<bool, QueueError> {
        Ok(self.old.is_empty().await? && self.new.is_empty().await?)
    }
}
