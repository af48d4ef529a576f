//! Works on jobs: claims the first ones of lanes, attempts them in order, and tells what came of
//! them, many at a time.
//!
//! A worker is known to the queue under an id for as long as it gives signs of life. When they
//! fail for nearly a lease it stops all that it does, so that nobody else begins what it has not
//! ended, and begins anew under another id. It does so too, once what is under way has ended, where it
//! may hold what it does not know of: whatever is an id's goes back when that leaves.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ::queue::{ClaimedJob, FinishedClaim, JobOutcome, LaneBatch, QueueError, WorkerId, failpoint};
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinError, JoinSet};
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::completer::tell;
use super::heartbeat::run_heartbeats;
use super::lane_executor::{LaneExecutor, run_lane};
use super::maintenance::run_maintenance;
use super::prefetch::PrefetchEstimator;
use super::ready_batches::ReadyBatches;
use super::worker_config::WorkerConfig;
use crate::delivery::ActionName;

/// Pause after a look that found jobs, while there is room for more.
const SHORTEST_PAUSE: Duration = Duration::from_millis(5);

/// Longest pause between two looks.
const LONGEST_PAUSE: Duration = Duration::from_millis(250);

/// The same after [`QUIET`].
const QUIET_PAUSE: Duration = Duration::from_secs(1);

/// After so long without a job the looks become seldom.
const QUIET: Duration = Duration::from_mins(1);

/// Shortest pause before a look for what was held back.
const OPENING_PAUSE: Duration = Duration::from_millis(20);

/// Pause after a failure to ask.
pub(crate) const FAILURE_PAUSE: Duration = Duration::from_millis(500);

/// How long the queue may take to answer.
pub(crate) const ANSWER: Duration = Duration::from_secs(10);

/// Results that wait to be told; while there are more, nothing more is claimed.
const MAX_UNTOLD: usize = 4096;

/// Most results that are told at once.
const TOLD_AT_ONCE: usize = 1024;

/// Most bytes of events that a worker holds, but for the one that it claimed last: as much again may
/// have ended and wait to be told.
const MAX_HELD_BYTES: usize = 8 << 20;

/// Works until `stop`, and then until what is under way has ended or its time is over.
pub(crate) async fn run(setup: WorkerConfig, stop: CancellationToken) {
    let (orphaned, orphans) = watch::channel(Arc::from([]));
    while !stop.is_cancelled() {
        let id = WorkerId(Uuid::new_v4());
        let registered = tokio::select! {
            registered = timeout(ANSWER, setup.backend.queue.register(id, &setup.name)) => registered,
            () = stop.cancelled() => return,
        };
        match registered {
            Ok(Ok(())) => {
                let session = Session::begin(&setup, id, orphans.clone());
                session.run(&stop, &orphaned).await;
            }
            Ok(Err(error)) => setup.failed(&error),
            Err(_) => tracing::debug!("the job queue does not answer; trying again"),
        }
        tokio::select! {
            () = sleep(FAILURE_PAUSE) => {}
            () = stop.cancelled() => {}
        }
    }
}

/// Work under one id.
struct Session<'a> {
    setup: &'a WorkerConfig,
    id: WorkerId,
    /// Cancelled when what is held here may be others' soon.
    right: CancellationToken,
    executor: Arc<LaneExecutor>,
    ended: mpsc::Receiver<FinishedClaim>,
    /// Those that wait to begin, and how many lanes of each action are here.
    ready: ReadyBatches<LaneBatch>,
    running: JoinSet<(ActionName, usize)>,
    /// Bytes of the events of what waits to begin and of what is running.
    held_bytes: usize,
    claims: JoinSet<Result<Vec<LaneBatch>, QueueError>>,
    untold: Vec<FinishedClaim>,
    untold_bytes: usize,
    telling: JoinSet<Result<usize, (Vec<FinishedClaim>, QueueError)>>,
    prefetch: PrefetchEstimator,
    /// Actions that nobody has any more, whose jobs are to be given up.
    orphans: watch::Receiver<Arc<[ActionName]>>,
    pause: Duration,
    next_look: Instant,
    /// Jobs were said to be there while a look was under way, which may have missed them.
    look_again: bool,
    /// When there is room again for an action that nothing is taken of now.
    opening: Option<Instant>,
    /// When there was a job, or was said to be one.
    last_job: Instant,
}

impl<'a> Session<'a> {
    fn begin(
        setup: &'a WorkerConfig,
        id: WorkerId,
        orphans: watch::Receiver<Arc<[ActionName]>>,
    ) -> Self {
        let (tell, ended) = mpsc::channel(setup.concurrency.max(1));
        let right = CancellationToken::new();
        Self {
            executor: Arc::new(LaneExecutor {
                observers: setup.observers.clone(),
                orphans: orphans.clone(),
                metrics: setup.metrics.clone(),
                right: right.clone(),
                stopping: CancellationToken::new(),
                cancels: Mutex::new(HashMap::new()),
                tell,
            }),
            setup,
            id,
            right,
            ended,
            ready: ReadyBatches::default(),
            running: JoinSet::new(),
            held_bytes: 0,
            claims: JoinSet::new(),
            untold: Vec::new(),
            untold_bytes: 0,
            telling: JoinSet::new(),
            prefetch: PrefetchEstimator::default(),
            orphans,
            pause: SHORTEST_PAUSE,
            next_look: Instant::now(),
            look_again: false,
            opening: None,
            last_job: Instant::now(),
        }
    }

    async fn run(mut self, stop: &CancellationToken, orphaned: &watch::Sender<Arc<[ActionName]>>) {
        let setup = self.setup;
        let (executor, right) = (Arc::clone(&self.executor), self.right.clone());
        let signs = run_heartbeats(setup, self.id, &right, |claims| executor.cancel(claims));
        let run_maintenance = run_maintenance(setup, orphaned);
        let work = self.work(stop);
        // The signs go on until all has ended, or end all themselves.
        let lost = tokio::select! {
            () = signs => true,
            () = run_maintenance => true,
            () = work => false,
        };
        if lost {
            tracing::warn!(
                worker = %self.id.0,
                "gave no sign of life to the job queue for too long; what was under way is cut off and done again"
            );
            right.cancel();
            self.finish_after_loss().await;
        }
        self.setup.metrics.jobs.in_flight.set(0);
    }

    async fn work(&mut self, stop: &CancellationToken) {
        let mut end = None;
        loop {
            self.start();
            self.tell();
            let late = end.is_some_and(|end| Instant::now() >= end + ANSWER);
            let ends = self.executor.stopping.is_cancelled();
            if ends && (self.is_done() || late) {
                break;
            }
            let look = (!ends && self.wants_more()).then_some(self.next_look);
            let added = Arc::clone(&self.setup.added);
            tokio::select! {
                Some(ended) = self.ended.recv() => self.note(ended),
                Some(ran) = self.running.join_next() => self.ran(ran),
                Some(claimed) = self.claims.join_next() => self.claimed(claimed),
                Some(told) = self.telling.join_next() => self.told(told),
                () = added.notified(), if !ends => self.look_soon(),
                () = until(look), if look.is_some() => self.look(),
                () = stop.cancelled(), if end.is_none() => {
                    end = Some(Instant::now() + self.setup.drain);
                    self.begin_no_more();
                }
                () = until(end.map(|end| end + ANSWER)), if self.right.is_cancelled() && end.is_some() => {}
                () = until(end), if end.is_some() && !self.right.is_cancelled() => {
                    if !self.running.is_empty() {
                        tracing::warn!(jobs = self.running.len(), "cutting off jobs under way; they are done again");
                    }
                    self.right.cancel();
                }
            }
        }
        self.leave(stop).await;
    }

    /// Gives back whatever is held under this id; tries until that is done, or for [`ANSWER`] once
    /// a stop is asked for. Should it fail, the lease runs out with the signs of life.
    async fn leave(&self, stop: &CancellationToken) {
        let leaving = async {
            while let Err(error) = self.setup.backend.queue.deregister(self.id).await {
                self.setup.failed(&error);
                sleep(FAILURE_PAUSE).await;
            }
        };
        let patience = async {
            stop.cancelled().await;
            sleep(ANSWER).await;
        };
        tokio::select! {
            () = leaving => {}
            () = patience => {}
        }
    }

    fn is_done(&self) -> bool {
        self.running.is_empty()
            && self.claims.is_empty()
            && self.untold.is_empty()
            && self.telling.is_empty()
            && self.ready.len() == 0
            && self.ended.is_empty()
    }

    fn room(&self) -> usize {
        let ahead = self.prefetch.ahead();
        let held = self.running.len() + self.ready.len();
        (self.setup.concurrency + ahead).saturating_sub(held)
    }

    fn wants_more(&self) -> bool {
        self.claims.is_empty()
            && self.untold.len() < MAX_UNTOLD
            && self.untold_bytes < MAX_HELD_BYTES
            && self.held_bytes < MAX_HELD_BYTES
            && self.room() > 0
    }

    /// There are jobs, or there will be some before long.
    fn look_soon(&mut self) {
        self.look_again = !self.claims.is_empty();
        self.last_job = Instant::now();
        self.next_look = self.last_job;
        self.pause = SHORTEST_PAUSE;
    }

    fn look(&mut self) {
        let (queue, id) = (Arc::clone(&self.setup.backend.queue), self.id);
        let orphans = Arc::clone(&self.orphans.borrow());
        let (room, now) = (self.room(), Instant::now());
        let (mut want, opening) = self.setup.want(room, &orphans, self.ready.held(), now);
        want.max_bytes = MAX_HELD_BYTES.saturating_sub(self.held_bytes);
        self.opening = opening;
        self.claims.spawn(async move {
            let claimed = timeout(ANSWER, queue.claim(id, &want)).await;
            claimed.unwrap_or(Err(QueueError::NoAnswer))
        });
    }

    fn claimed(&mut self, claimed: Result<Result<Vec<LaneBatch>, QueueError>, JoinError>) {
        let again = std::mem::take(&mut self.look_again);
        let pause = match claimed {
            Ok(Ok(runs)) => {
                if !runs.is_empty() {
                    failpoint!("jobs-claimed");
                }
                if runs.is_empty() {
                    let quiet = self.last_job.elapsed() > QUIET;
                    let longest = if quiet { QUIET_PAUSE } else { LONGEST_PAUSE };
                    self.pause = (self.pause * 2).min(longest);
                } else {
                    self.look_soon();
                }
                // What was asked for was there, so there may be more.
                let more = runs.len() >= self.setup.concurrency || again;
                for run in runs {
                    self.take(run);
                }
                if self.executor.stopping.is_cancelled() {
                    self.hand_back();
                }
                if more { Duration::ZERO } else { self.pause }
            }
            Ok(Err(error)) => {
                self.setup.failed(&error);
                if error.may_have_claimed() {
                    self.begin_no_more();
                }
                FAILURE_PAUSE
            }
            Err(error) => {
                tracing::error!(%error, "a look for jobs broke down");
                self.begin_no_more();
                FAILURE_PAUSE
            }
        };
        let now = Instant::now();
        let opening = self.opening.map(|opening| opening.max(now + OPENING_PAUSE));
        self.next_look = opening.map_or(now + pause, |opening| opening.min(now + pause));
    }

    /// Keeps a run, unless its action holds its share of the room already.
    fn take(&mut self, run: LaneBatch) {
        let Some(first) = run.jobs.first() else {
            return;
        };
        let name = name(first);
        let most = self.share() + self.prefetch.ahead();
        let late: Vec<Duration> = run.jobs.iter().map(|job| job.queue_delay).collect();
        let bytes = bytes(&run);
        match self.ready.add(name, run, most) {
            Ok(()) => {
                self.held_bytes += bytes;
                for late in late {
                    self.setup
                        .metrics
                        .jobs
                        .queue_delay
                        .observe(late.as_secs_f64());
                }
            }
            Err(run) => self.give_back(run),
        }
    }

    /// Most lanes under way here of one action, so that one whose attempts take long leaves room
    /// for others, if there are any.
    fn share(&self) -> usize {
        let all = self.setup.concurrency;
        let alone = self.setup.observers.borrow().len() < 2;
        if alone { all } else { all - all / 4 }
    }

    fn start(&mut self) {
        let share = self.share();
        while self.running.len() < self.setup.concurrency
            && let Some((name, run)) = self.ready.next(share)
        {
            let bytes = bytes(&run);
            let working = run_lane(run, Arc::clone(&self.executor));
            self.running.spawn(async move {
                working.await;
                (name, bytes)
            });
        }
        let running = i64::try_from(self.running.len()).unwrap_or(i64::MAX);
        self.setup.metrics.jobs.in_flight.set(running);
    }

    /// Lets what is under way end, and begins nothing more: for a stop, or where jobs may be held
    /// under this id that are not known here, as when a claim had no answer.
    fn begin_no_more(&mut self) {
        self.executor.stopping.cancel();
        self.hand_back();
    }

    /// What was not begun is others' again.
    fn hand_back(&mut self) {
        for run in self.ready.drain() {
            self.held_bytes = self.held_bytes.saturating_sub(bytes(&run));
            self.give_back(run);
        }
    }

    fn give_back(&mut self, run: LaneBatch) {
        self.untold_bytes += bytes(&run);
        self.untold.extend(untouched(run));
    }

    fn ran(&mut self, ran: Result<(ActionName, usize), JoinError>) {
        match ran {
            Ok((name, bytes)) => {
                self.ready.ended(&name);
                self.held_bytes = self.held_bytes.saturating_sub(bytes);
            }
            Err(error) => {
                tracing::error!(%error, "work on a job broke down");
                self.begin_no_more();
            }
        }
    }

    fn note(&mut self, ended: FinishedClaim) {
        self.prefetch.ended(Instant::now());
        self.untold_bytes += ended.job.event.get().len();
        self.untold.push(ended);
    }

    /// Tells the queue what ended, while nothing else is being told.
    fn tell(&mut self) {
        while let Ok(ended) = self.ended.try_recv() {
            self.note(ended);
        }
        if self.untold.is_empty() || !self.telling.is_empty() {
            return;
        }
        let many = self.untold.len().min(TOLD_AT_ONCE);
        let ended: Vec<FinishedClaim> = self.untold.drain(..many).collect();
        self.untold_bytes = bytes_of(&self.untold);
        self.telling.spawn(tell(self.setup.clone(), self.id, ended));
    }

    fn told(&mut self, told: Result<Result<usize, (Vec<FinishedClaim>, QueueError)>, JoinError>) {
        match told {
            Ok(Ok(_)) => {}
            Ok(Err((mut ended, error))) => {
                self.setup.failed(&error);
                ended.append(&mut self.untold);
                self.untold_bytes = bytes_of(&ended);
                self.untold = ended;
            }
            Err(error) => {
                tracing::error!(%error, "telling the job queue broke down");
                self.begin_no_more();
            }
        }
    }

    /// What was finished is still offered; it is refused where others have it by now.
    async fn finish_after_loss(&mut self) {
        self.ready.drain();
        let lease = self.setup.lease;
        let finish = async {
            loop {
                self.tell();
                if self.running.is_empty() && self.untold.is_empty() && self.telling.is_empty() {
                    break;
                }
                tokio::select! {
                    Some(ended) = self.ended.recv() => self.note(ended),
                    Some(ran) = self.running.join_next() => self.ran(ran),
                    Some(told) = self.telling.join_next() => self.told(told),
                }
            }
        };
        if timeout(lease, finish).await.is_err() {
            tracing::warn!("could not tell what became of some jobs; they are done again");
        }
    }
}

/// Bytes of a run's events.
fn bytes(run: &LaneBatch) -> usize {
    run.jobs.iter().map(|one| one.job.event.get().len()).sum()
}

fn bytes_of(ended: &[FinishedClaim]) -> usize {
    ended.iter().map(|one| one.job.event.get().len()).sum()
}

fn name(claimed: &ClaimedJob) -> ActionName {
    let lane = &claimed.job.lane;
    (Arc::clone(&lane.observer), Arc::clone(&lane.action))
}

/// Jobs that are others' again.
fn untouched(run: LaneBatch) -> impl Iterator<Item = FinishedClaim> {
    run.jobs.into_iter().map(|claimed| FinishedClaim {
        job: Arc::new(claimed.job),
        claim: claimed.claim,
        outcome: JobOutcome::Released,
        enqueued_at: claimed.enqueued_at,
    })
}

/// Does not sleep for what is past, since a timer's shortest sleep is a millisecond.
async fn until(moment: Option<Instant>) {
    if let Some(moment) = moment
        && moment > Instant::now()
    {
        sleep_until(moment).await;
    }
}
