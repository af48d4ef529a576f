//! A worker as the listener has it, whose jobs do nothing.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use observer_queue::{
    ClaimRequest, FinishedClaim, JobOutcome, JobQueue, LaneBatch, QueueError, WorkerId,
};
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, interval, sleep_until};
use uuid::Uuid;

use super::Failure;
use super::make::{ACTION, NoDeadLetters, OBSERVER, Seen};

/// How long nobody looks after a look.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pauses {
    /// After a look that found jobs, and the ones that follow.
    shortest: Duration,
    /// From when jobs were found until pauses begin to double.
    near: Duration,
    /// Whether a look that is due is made without a timer, whose ticks are a millisecond, and
    /// whether what is said of new jobs while a look is under way leads to another one right after.
    at_once: bool,
}

/// As in the listener.
pub(crate) const AS_IN_THE_LISTENER: Pauses = Pauses {
    shortest: Duration::from_millis(5),
    near: Duration::ZERO,
    at_once: false,
};

/// What it would be like to look more often while jobs come, and at once when there are some.
pub(crate) const NEAR: Pauses = Pauses {
    shortest: Duration::from_millis(2),
    near: Duration::from_millis(50),
    at_once: true,
};

/// As in the listener.
const LONGEST_PAUSE: Duration = Duration::from_millis(250);
const AHEAD: Duration = Duration::from_millis(50);
const WINDOW: Duration = Duration::from_millis(250);
const MAX_UNTOLD: usize = 4096;

/// How many workers, and how much one does at once.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Setting {
    /// Workers, each with all of what follows.
    pub(crate) workers: usize,
    /// Runs under way.
    pub(crate) concurrency: usize,
    /// Most batches claimed beyond those.
    pub(crate) most_ahead: usize,
    /// Most results told at once.
    pub(crate) told_at_once: usize,
    /// Between looks.
    pub(crate) pauses: Pauses,
}

/// Workers under way; they end when dropped.
pub(crate) struct Working {
    ids: Vec<WorkerId>,
    queue: Arc<dyn JobQueue>,
    /// How many jobs the queue took as done.
    pub(crate) done: watch::Receiver<usize>,
    tasks: JoinSet<Result<(), Failure>>,
}

impl Working {
    /// Registers them and begins.
    pub(crate) async fn begin(
        queue: Arc<dyn JobQueue>,
        setting: Setting,
        lease: Duration,
        seen: Arc<Seen>,
        added: Arc<Notify>,
    ) -> Result<Self, Failure> {
        let (told, done) = watch::channel(0);
        let (mut ids, mut tasks) = (Vec::new(), JoinSet::new());
        for _ in 0..setting.workers {
            let id = WorkerId(Uuid::new_v4());
            ids.push(id);
            queue.register(id, "worker").await?;
            let session = Session::new(Arc::clone(&queue), id, setting, &seen, &told);
            tasks.spawn(session.work(Arc::clone(&added)));
            let keeper = Arc::clone(&queue);
            tasks.spawn(async move {
                let mut ticks = interval(Duration::from_secs(1));
                loop {
                    ticks.tick().await;
                    keeper.run_maintenance().await?;
                }
            });
            let living = Arc::clone(&queue);
            tasks.spawn(async move {
                let mut ticks = interval(lease / 4);
                loop {
                    ticks.tick().await;
                    living.heartbeat(id).await?;
                }
            });
        }
        Ok(Self {
            ids,
            queue,
            done,
            tasks,
        })
    }

    /// They take leave. What failed meanwhile is told of.
    pub(crate) async fn end(mut self) -> Result<(), Failure> {
        let failed = self.tasks.try_join_next();
        self.tasks.shutdown().await;
        for id in self.ids {
            self.queue.deregister(id).await?;
        }
        match failed {
            Some(ended) => ended?,
            None => Ok(()),
        }
    }
}

struct Session {
    queue: Arc<dyn JobQueue>,
    id: WorkerId,
    setting: Setting,
    seen: Arc<Seen>,
    tell: mpsc::Sender<FinishedClaim>,
    ended: mpsc::Receiver<FinishedClaim>,
    ready: VecDeque<LaneBatch>,
    running: JoinSet<()>,
    claims: JoinSet<Result<Vec<LaneBatch>, QueueError>>,
    untold: Vec<FinishedClaim>,
    telling: JoinSet<Result<usize, QueueError>>,
    since: Instant,
    count: usize,
    ahead: usize,
    pause: Duration,
    next_look: Instant,
    last_job: Instant,
    /// Whether there are said to be jobs that the look under way may have missed.
    missed: bool,
    told: watch::Sender<usize>,
}

impl Session {
    fn new(
        queue: Arc<dyn JobQueue>,
        id: WorkerId,
        setting: Setting,
        seen: &Arc<Seen>,
        told: &watch::Sender<usize>,
    ) -> Self {
        let (tell, ended) = mpsc::channel(setting.concurrency);
        Self {
            queue,
            id,
            setting,
            seen: Arc::clone(seen),
            tell,
            ended,
            ready: VecDeque::new(),
            running: JoinSet::new(),
            claims: JoinSet::new(),
            untold: Vec::new(),
            telling: JoinSet::new(),
            since: Instant::now(),
            count: 0,
            ahead: 0,
            pause: setting.pauses.shortest,
            next_look: Instant::now(),
            last_job: Instant::now(),
            missed: false,
            told: told.clone(),
        }
    }

    async fn work(mut self, added: Arc<Notify>) -> Result<(), Failure> {
        loop {
            self.start();
            self.tell();
            let look = self.claims.is_empty() && self.untold.len() < MAX_UNTOLD && self.room() > 0;
            tokio::select! {
                Some(ended) = self.ended.recv() => self.note(ended),
                Some(ran) = self.running.join_next() => ran?,
                Some(claimed) = self.claims.join_next() => self.claimed(claimed??),
                Some(told) = self.telling.join_next() => {
                    let told = told??;
                    self.told.send_modify(|done| *done += told);
                }
                () = added.notified() => {
                    self.next_look = Instant::now();
                    self.pause = self.setting.pauses.shortest;
                    self.missed = self.setting.pauses.at_once && !self.claims.is_empty();
                }
                () = until(self.next_look, self.setting.pauses.at_once), if look => self.look(),
            }
        }
    }

    fn room(&self) -> usize {
        let held = self.running.len() + self.ready.len();
        (self.setting.concurrency + self.ahead).saturating_sub(held)
    }

    fn start(&mut self) {
        while self.running.len() < self.setting.concurrency
            && let Some(batch) = self.ready.pop_front()
        {
            let (seen, tell) = (Arc::clone(&self.seen), self.tell.clone());
            self.running.spawn(async move {
                for claimed in batch.jobs {
                    seen.begun(&claimed.job);
                    let ended = FinishedClaim {
                        job: Arc::new(claimed.job),
                        claim: claimed.claim,
                        outcome: JobOutcome::Completed,
                        enqueued_at: claimed.enqueued_at,
                    };
                    if tell.send(ended).await.is_err() {
                        break;
                    }
                }
            });
        }
    }

    fn note(&mut self, ended: FinishedClaim) {
        self.untold.push(ended);
        self.count += 1;
        let took = self.since.elapsed();
        if took >= WINDOW {
            let ahead = self.count * usize::try_from(AHEAD.as_micros()).unwrap_or(0)
                / usize::try_from(took.as_micros()).unwrap_or(usize::MAX);
            self.ahead = ahead.min(self.setting.most_ahead);
            self.count = 0;
            self.since = Instant::now();
        }
    }

    fn tell(&mut self) {
        while let Ok(ended) = self.ended.try_recv() {
            self.note(ended);
        }
        if self.untold.is_empty() || !self.telling.is_empty() {
            return;
        }
        let many = self.untold.len().min(self.setting.told_at_once);
        let ended: Vec<FinishedClaim> = self.untold.drain(..many).collect();
        let (queue, id) = (Arc::clone(&self.queue), self.id);
        self.telling.spawn(async move {
            let refused = queue.finish(id, &ended, &NoDeadLetters).await?;
            Ok(ended.len() - refused.len())
        });
    }

    fn look(&mut self) {
        let (queue, id) = (Arc::clone(&self.queue), self.id);
        let want = ClaimRequest {
            max_bytes: 1 << 30,
            max_lanes: self.room(),
            actions: vec![(OBSERVER.into(), ACTION.into(), None)],
            max_running_total: None,
        };
        self.claims
            .spawn(async move { queue.claim(id, &want).await });
    }

    fn claimed(&mut self, batches: Vec<LaneBatch>) {
        let pauses = self.setting.pauses;
        if !batches.is_empty() {
            self.last_job = Instant::now();
            self.pause = pauses.shortest;
        } else if self.last_job.elapsed() >= pauses.near {
            self.pause = (self.pause * 2).min(LONGEST_PAUSE);
        }
        let more = batches.len() >= self.setting.concurrency;
        self.ready.extend(batches);
        let missed = std::mem::take(&mut self.missed);
        let pause = if more || missed {
            Duration::ZERO
        } else {
            self.pause
        };
        self.next_look = Instant::now() + pause;
    }
}

/// Waits for a moment; for one that is past, not even for the timer if it is to be at once.
async fn until(moment: Instant, at_once: bool) {
    if !at_once || moment > Instant::now() {
        sleep_until(moment).await;
    }
}
