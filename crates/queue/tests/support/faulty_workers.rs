//! Workers that fail, die and falter at random, and a note of what they did.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use observer_queue::{
    FinishedClaim, HeartbeatResponse, JobOutcome, JobQueue, Lane, LaneBatch, QueueError, WorkerId,
};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use testkit::wait::{Patience, amounts_to, while_progressing};
use tokio::task::JoinSet;
use tokio::time::Instant;
use uuid::Uuid;

use super::builders::{RecordedDeadLetters, again, ended, request};

/// How often something happens to a worker, per job.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct FaultRates {
    /// An attempt fails and is made again a little later.
    pub(crate) fails: f64,
    /// The worker goes without a word, and another comes in its place.
    pub(crate) dies: f64,
    /// It stands still for longer than its lease, and then tells what it did.
    pub(crate) falters: f64,
}

/// What they did.
#[derive(Debug, Default)]
pub(crate) struct WorkLog {
    /// Jobs by the hash of their lane, in the order in which their ends were accepted.
    pub(crate) ended: BTreeMap<u32, Vec<i64>>,
    /// Attempts that failed.
    pub(crate) failed: usize,
    /// Workers that went without a word.
    pub(crate) died: usize,
    /// Workers that stood still.
    pub(crate) faltered: usize,
    /// Results that were refused.
    pub(crate) refused: usize,
    /// Claims that `keep` took back.
    pub(crate) expired_claims: u64,
    /// Calls that failed and were made again.
    pub(crate) errors: usize,
    /// Workers that did not run for their lease after they had claimed.
    pub(crate) late: usize,
    /// Who holds which lane, as far as its holder may still believe it, and until when it may.
    holders: HashMap<Lane, (WorkerId, Instant)>,
    /// The latest job of each lane whose good end was told, accepted or not.
    offered: HashMap<u32, i64>,
    /// The latest job of each lane whose good end was accepted for sure.
    accepted: HashMap<u32, i64>,
}

/// Running workers.
#[derive(Default)]
pub(crate) struct FaultyWorkers {
    told: Arc<Mutex<WorkLog>>,
    ended: Arc<AtomicBool>,
    workers: JoinSet<()>,
}

impl WorkLog {
    /// The latest job of a lane whose good end was told.
    pub(crate) fn offered(&self, hash: u32) -> Option<i64> {
        self.offered.get(&hash).copied()
    }
}

impl fmt::Display for WorkLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} ended, {} attempts failed, {} workers died, {} faltered, {} results refused, {} claims taken back, \
             {} calls failed, {} claims came too late",
            self.ended.values().map(Vec::len).sum::<usize>(),
            self.failed,
            self.died,
            self.faltered,
            self.refused,
            self.expired_claims,
            self.errors,
            self.late
        )
    }
}

impl FaultyWorkers {
    /// Adds a worker, under the lease that its queue has.
    pub(crate) fn start(
        &mut self,
        queue: Arc<dyn JobQueue>,
        lease: Duration,
        faults: FaultRates,
        seed: u64,
    ) {
        let member = FaultyWorker {
            queue,
            lease,
            faults,
            told: self.told.clone(),
            ended: self.ended.clone(),
            random: StdRng::seed_from_u64(seed),
        };
        self.workers.spawn(member.work());
    }

    /// Waits until a queue is empty, as long as jobs end. How long all of it takes is nobody's
    /// promise: a lane whose workers die one after the other waits for the lease of each.
    pub(crate) async fn empties(&self, queue: &dyn JobQueue) {
        while_progressing("the queue becomes empty as jobs end", async || {
            let empty = matches!(queue.is_empty().await, Ok(true));
            if empty { Ok(()) } else { Err(self.count()) }
        })
        .await;
    }

    /// Waits until so many more jobs have ended.
    pub(crate) async fn gets_on(&self, jobs: u64) {
        let from = self.count();
        amounts_to("more jobs ended", jobs, async || self.count() - from).await;
    }

    /// Jobs that have ended.
    fn count(&self) -> u64 {
        let told = self.told.lock().unwrap();
        told.ended.values().map(|of| of.len() as u64).sum()
    }

    /// Ends them and gives what they did; fails with them.
    pub(crate) async fn end(mut self) -> WorkLog {
        self.ended.store(true, Ordering::Relaxed);
        while let Some(ended) = self.workers.join_next().await {
            ended.unwrap();
        }
        std::mem::take(&mut *self.told.lock().unwrap())
    }
}

/// Makes a call again until it does not fail.
macro_rules! persist {
    ($member:expr, $call:expr) => {{
        let mut patience = Patience::default();
        loop {
            match $call {
                Ok(answer) => break answer,
                Err(error) => $member.failed(error, &mut patience).await,
            }
        }
    }};
}

struct FaultyWorker {
    queue: Arc<dyn JobQueue>,
    lease: Duration,
    faults: FaultRates,
    told: Arc<Mutex<WorkLog>>,
    ended: Arc<AtomicBool>,
    random: StdRng,
}

impl FaultyWorker {
    async fn work(mut self) {
        while !self.ended.load(Ordering::Relaxed) {
            let worker = WorkerId(Uuid::new_v4());
            let queue = self.queue.clone();
            persist!(self, queue.register(worker, "one of the crew").await);
            while !self.ended.load(Ordering::Relaxed) && self.round(worker).await {}
        }
    }

    /// Notes a call that failed, before it is made again.
    async fn failed(&self, error: QueueError, patience: &mut Patience) {
        assert!(patience.lasts(), "a call fails again and again: {error}");
        self.told.lock().unwrap().errors += 1;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }

    /// Claims, works and finishes once; false when this worker is no more.
    async fn round(&mut self, worker: WorkerId) -> bool {
        let queue = self.queue.clone();
        let kept = persist!(self, queue.run_maintenance().await);
        self.told.lock().unwrap().expired_claims += kept.expired_claims;
        // Its claims are valid for at most a lease after this heartbeat.
        let until = Instant::now() + self.lease;
        if persist!(self, queue.heartbeat(worker).await) == HeartbeatResponse::Expired {
            self.forget_holder(worker);
            return false;
        }
        let most = self.random.random_range(1..4);
        let batches = persist!(self, queue.claim(worker, &request(most)).await);
        if batches.is_empty() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let mut all = Vec::new();
        for batch in &batches {
            if !self.begin(worker, batch, until) {
                self.forget_holder(worker);
                return false;
            }
            for claimed in &batch.jobs {
                if self.random.random_bool(self.faults.dies) {
                    self.told.lock().unwrap().died += 1;
                    self.forget_holder(worker);
                    return false;
                }
                if self.random.random_bool(self.faults.fails) {
                    let wait = Duration::from_millis(self.random.random_range(0..20));
                    all.push(ended(claimed, again(claimed, wait)));
                    self.told.lock().unwrap().failed += 1;
                    break;
                }
                all.push(ended(claimed, JobOutcome::Completed));
            }
        }
        if self.random.random_bool(self.faults.falters) && !all.is_empty() {
            self.told.lock().unwrap().faltered += 1;
            self.forget_holder(worker);
            tokio::time::sleep(self.lease * 2).await;
        }
        self.tell(worker, &all).await;
        true
    }

    /// Notes that a worker begins with a batch, which no other may hold. It goes on where the lane
    /// was left, without a gap: between what was accepted for sure and what was told.
    ///
    /// False where the worker did not run for so long that what it claimed may be another's by now.
    fn begin(&self, worker: WorkerId, batch: &LaneBatch, until: Instant) -> bool {
        let lane = &batch.jobs[0].job.lane;
        let mut told = self.told.lock().unwrap();
        let now = Instant::now();
        if now >= until {
            told.late += 1;
            return false;
        }
        if let Some((holder, its)) = told.holders.insert(lane.clone(), (worker, until)) {
            assert!(
                holder == worker || now >= its,
                "two workers have a batch of {lane:?}: {holder:?} for {:?} more, and {worker:?}",
                its - now
            );
        }
        let ids: Vec<i64> = batch.jobs.iter().map(|one| one.job.log_id).collect();
        let noted = told.accepted.get(&lane.hash).copied();
        let offered = told.offered.get(&lane.hash).copied();
        assert!(
            ids[0] > noted.unwrap_or(-1) && ids[0] <= offered.unwrap_or(-1) + 1,
            "{lane:?} goes on with {ids:?} after {noted:?}, told up to {offered:?}"
        );
        assert!(ids.is_sorted_by(|one, other| one + 1 == *other), "{ids:?}");
        true
    }

    /// What a worker that is gone held may be anybody's from now on.
    fn forget_holder(&self, worker: WorkerId) {
        let mut told = self.told.lock().unwrap();
        told.holders.retain(|_, (holder, _)| *holder != worker);
    }

    async fn tell(&self, worker: WorkerId, all: &[FinishedClaim]) {
        // Before they are ended: once they are, others may begin.
        self.forget_holder(worker);
        let before = {
            let mut told = self.told.lock().unwrap();
            for one in all
                .iter()
                .filter(|one| matches!(one.outcome, JobOutcome::Completed))
            {
                let offered = told.offered.entry(one.job.lane.hash).or_default();
                *offered = one.job.log_id.max(*offered);
            }
            told.errors
        };
        let queue = self.queue.clone();
        let sink = RecordedDeadLetters::default();
        let refused = persist!(self, queue.finish(worker, all, &sink).await);
        let mut told = self.told.lock().unwrap();
        // Where an answer was lost, the results may have been accepted the first time; or they came
        // too late, as the claims were others' by then.
        let doubtful = told.errors != before;
        for one in all {
            if matches!(one.outcome, JobOutcome::Completed) && !refused.contains(&one.claim) {
                let accepted = told.accepted.entry(one.job.lane.hash).or_default();
                *accepted = one.job.log_id.max(*accepted);
            }
            if refused.contains(&one.claim) && !doubtful {
                told.refused += 1;
            } else if matches!(one.outcome, JobOutcome::Completed) {
                let ended = told.ended.entry(one.job.lane.hash).or_default();
                if !doubtful || ended.last() != Some(&one.job.log_id) {
                    ended.push(one.job.log_id);
                }
            }
        }
    }
}
