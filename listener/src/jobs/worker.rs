//! Worker: claims batches of jobs from the first ones of their lanes, runs them in order, and submits
//! their results, many at a time.
//!
//! A worker is registered in the queue under an id for as long as it sends heartbeats. When they fail
//! for nearly a lease, it cancels everything in flight, so that no other worker runs the same jobs at
//! the same time, and registers again under a new id. It also does so, after what is in flight has
//! finished, if it may hold claims that it does not know of: deregistration releases all claims of an
//! id.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ::queue::{FinishedClaim, JobOutcome, LaneBatch, QueueError, WorkerId, failpoint};
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinError, JoinSet};
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::completer::submit_results;
use super::heartbeat::run_heartbeats;
use super::lane_executor::{LaneExecutor, run_lane};
use super::maintenance::run_maintenance;
use super::prefetch::PrefetchEstimator;
use super::ready_batches::ReadyBatches;
use super::worker_config::WorkerConfig;
use crate::delivery::ActionName;

/// Poll interval after a poll that found jobs, while there is capacity.
const MIN_POLL_INTERVAL: Duration = Duration::from_millis(5);

/// Longest poll interval.
const MAX_POLL_INTERVAL: Duration = Duration::from_millis(250);

/// Poll interval after [`IDLE_AFTER`].
const IDLE_POLL_INTERVAL: Duration = Duration::from_secs(1);

/// Time without a job after which polls become rare.
const IDLE_AFTER: Duration = Duration::from_mins(1);

/// Shortest interval before a poll for an action that regains capacity.
const CAPACITY_INTERVAL: Duration = Duration::from_millis(20);

/// Interval before a retry of a call to the queue.
pub(crate) const RETRY_INTERVAL: Duration = Duration::from_millis(500);

/// Timeout of a call to the queue.
pub(crate) const QUEUE_TIMEOUT: Duration = Duration::from_secs(10);

/// Most results that wait to be submitted; while there are more, no jobs are claimed.
const MAX_PENDING_RESULTS: usize = 4096;

/// Most results in one call.
const MAX_RESULTS_PER_CALL: usize = 1024;

/// Bytes of events after which a worker claims no more; as many bytes of results may wait to be
/// submitted.
const MAX_HELD_BYTES: usize = 8 << 20;

/// Runs a worker until `stop`, then drains it within the drain timeout.
pub(crate) async fn run(config: WorkerConfig, stop: CancellationToken) {
    let (orphaned, orphans) = watch::channel(Arc::from([]));
    while !stop.is_cancelled() {
        let id = WorkerId(Uuid::new_v4());
        let registered = tokio::select! {
            registered = timeout(QUEUE_TIMEOUT, config.backend.queue.register(id, &config.worker_name)) => registered,
            () = stop.cancelled() => return,
        };
        match registered {
            Ok(Ok(())) => {
                config.reports.clear();
                let session = WorkerSession::new(&config, id, orphans.clone());
                session.run(&stop, &orphaned).await;
            }
            Ok(Err(error)) => config.record_error(&error),
            Err(_) => tracing::debug!("registration of the worker timed out; retrying"),
        }
        tokio::select! {
            () = sleep(RETRY_INTERVAL) => {}
            () = stop.cancelled() => {}
        }
    }
}

/// Work under one registered id.
struct WorkerSession<'a> {
    config: &'a WorkerConfig,
    id: WorkerId,
    /// Cancelled before the lease expires, and at the end of the drain timeout.
    lease_token: CancellationToken,
    executor: Arc<LaneExecutor>,
    results: mpsc::Receiver<FinishedClaim>,
    /// Batches that wait to run, and the number of lanes of each action held here.
    ready: ReadyBatches<LaneBatch>,
    running: JoinSet<(ActionName, usize)>,
    /// Bytes of events of waiting and running batches.
    held_bytes: usize,
    claims: JoinSet<Result<Vec<LaneBatch>, QueueError>>,
    pending_results: Vec<FinishedClaim>,
    pending_bytes: usize,
    submission: JoinSet<Result<(), (Vec<FinishedClaim>, QueueError)>>,
    prefetch: PrefetchEstimator,
    /// Actions that no observer has any more, whose jobs are discarded.
    orphans: watch::Receiver<Arc<[ActionName]>>,
    poll_interval: Duration,
    next_poll: Instant,
    /// Whether jobs were added during a poll, which may have missed them.
    poll_again: bool,
    /// When an action without capacity has capacity again.
    capacity_at: Option<Instant>,
    /// When jobs were last claimed or announced.
    last_job: Instant,
}

impl<'a> WorkerSession<'a> {
    fn new(
        config: &'a WorkerConfig,
        id: WorkerId,
        orphans: watch::Receiver<Arc<[ActionName]>>,
    ) -> Self {
        let (results_sender, results) = mpsc::channel(config.concurrency.max(1));
        let lease_token = CancellationToken::new();
        Self {
            executor: Arc::new(LaneExecutor {
                observers: config.observers.clone(),
                orphans: orphans.clone(),
                metrics: config.metrics.clone(),
                spans: config.spans.clone(),
                reports: config.reports.clone(),
                lease_token: lease_token.clone(),
                stopping: CancellationToken::new(),
                cancels: Mutex::new(HashMap::new()),
                results: results_sender,
            }),
            config,
            id,
            lease_token,
            results,
            ready: ReadyBatches::default(),
            running: JoinSet::new(),
            held_bytes: 0,
            claims: JoinSet::new(),
            pending_results: Vec::new(),
            pending_bytes: 0,
            submission: JoinSet::new(),
            prefetch: PrefetchEstimator::default(),
            orphans,
            poll_interval: MIN_POLL_INTERVAL,
            next_poll: Instant::now(),
            poll_again: false,
            capacity_at: None,
            last_job: Instant::now(),
        }
    }

    async fn run(mut self, stop: &CancellationToken, orphaned: &watch::Sender<Arc<[ActionName]>>) {
        let config = self.config;
        let (executor, lease_token) = (Arc::clone(&self.executor), self.lease_token.clone());
        let heartbeats = run_heartbeats(config, self.id, &lease_token, |claims| {
            executor.cancel(claims);
        });
        let maintenance = run_maintenance(config, orphaned);
        let work = self.work(stop);
        // Heartbeats continue until the work is done, and only end first if the lease is lost.
        let lost = tokio::select! {
            () = heartbeats => true,
            () = maintenance => true,
            () = work => false,
        };
        if lost {
            tracing::warn!(
                worker = %self.id.0,
                "worker lease expired; jobs in flight are cancelled and retried"
            );
            lease_token.cancel();
            self.drain_after_lease_loss().await;
        }
        self.config.metrics.jobs.in_flight.set(0);
    }

    async fn work(&mut self, stop: &CancellationToken) {
        let mut end = None;
        loop {
            self.start_batches();
            self.submit_results();
            let overdue = end.is_some_and(|end| Instant::now() >= end + QUEUE_TIMEOUT);
            let stopping = self.executor.stopping.is_cancelled();
            if stopping && (self.is_done() || overdue) {
                break;
            }
            let poll_at = (!stopping && self.can_claim()).then_some(self.next_poll);
            let added = Arc::clone(&self.config.jobs_added);
            tokio::select! {
                Some(result) = self.results.recv() => self.record_result(result),
                Some(ran) = self.running.join_next() => self.on_batch_finished(ran),
                Some(claimed) = self.claims.join_next() => self.on_claimed(claimed),
                Some(submitted) = self.submission.join_next() => self.on_submitted(submitted),
                () = added.notified(), if !stopping => self.poll_soon(),
                () = until(poll_at), if poll_at.is_some() => self.poll(),
                () = stop.cancelled(), if end.is_none() => {
                    end = Some(Instant::now() + self.config.drain_timeout);
                    self.stop_claiming();
                }
                () = until(end.map(|end| end + QUEUE_TIMEOUT)), if self.lease_token.is_cancelled() && end.is_some() => {}
                () = until(end), if end.is_some() && !self.lease_token.is_cancelled() => {
                    if !self.running.is_empty() {
                        tracing::warn!(jobs = self.running.len(), "drain timeout exceeded; jobs in flight are cancelled and retried");
                    }
                    self.lease_token.cancel();
                }
            }
        }
        self.deregister(stop).await;
    }

    /// Deregisters the worker, which releases its claims. Retries until that succeeds, or for
    /// [`QUEUE_TIMEOUT`] after `stop`; if it fails, the lease expires without heartbeats.
    async fn deregister(&self, stop: &CancellationToken) {
        let deregistration = async {
            while let Err(error) = self.config.backend.queue.deregister(self.id).await {
                self.config.record_error(&error);
                sleep(RETRY_INTERVAL).await;
            }
        };
        let deadline = async {
            stop.cancelled().await;
            sleep(QUEUE_TIMEOUT).await;
        };
        tokio::select! {
            () = deregistration => {}
            () = deadline => {}
        }
    }

    fn is_done(&self) -> bool {
        self.running.is_empty()
            && self.claims.is_empty()
            && self.pending_results.is_empty()
            && self.submission.is_empty()
            && self.ready.len() == 0
            && self.results.is_empty()
    }

    fn capacity(&self) -> usize {
        let ahead = self.prefetch.ahead();
        let held = self.running.len() + self.ready.len();
        (self.config.concurrency + ahead).saturating_sub(held)
    }

    fn can_claim(&self) -> bool {
        self.claims.is_empty()
            && self.pending_results.len() < MAX_PENDING_RESULTS
            && self.pending_bytes < MAX_HELD_BYTES
            && self.held_bytes < MAX_HELD_BYTES
            && self.capacity() > 0
    }

    /// Polls without delay, since jobs were added or claimed.
    fn poll_soon(&mut self) {
        self.poll_again = !self.claims.is_empty();
        self.last_job = Instant::now();
        self.next_poll = self.last_job;
        self.poll_interval = MIN_POLL_INTERVAL;
    }

    fn poll(&mut self) {
        let (queue, id) = (Arc::clone(&self.config.backend.queue), self.id);
        let orphans = Arc::clone(&self.orphans.borrow());
        let (max_lanes, now, held) = (self.capacity(), Instant::now(), self.ready.held());
        let (mut request, capacity_at) = self.config.claim_request(max_lanes, &orphans, held, now);
        request.max_bytes = MAX_HELD_BYTES.saturating_sub(self.held_bytes);
        self.capacity_at = capacity_at;
        let changes = Arc::clone(&self.config.changes);
        self.claims.spawn(async move {
            let claimed = timeout(QUEUE_TIMEOUT, queue.claim(id, &request)).await;
            let claimed = claimed.unwrap_or(Err(QueueError::NoAnswer));
            if claimed.as_ref().is_ok_and(|batches| !batches.is_empty()) {
                changes.catch_up().await;
            }
            claimed
        });
    }

    fn on_claimed(&mut self, claimed: Result<Result<Vec<LaneBatch>, QueueError>, JoinError>) {
        let poll_again = std::mem::take(&mut self.poll_again);
        let interval = match claimed {
            Ok(Ok(batches)) => {
                if !batches.is_empty() {
                    failpoint!("jobs-claimed");
                }
                if batches.is_empty() {
                    let idle = self.last_job.elapsed() > IDLE_AFTER;
                    let longest = if idle {
                        IDLE_POLL_INTERVAL
                    } else {
                        MAX_POLL_INTERVAL
                    };
                    self.poll_interval = (self.poll_interval * 2).min(longest);
                } else {
                    self.poll_soon();
                }
                // A full claim suggests that there are more.
                let more = batches.len() >= self.config.concurrency || poll_again;
                for batch in batches {
                    self.accept(batch);
                }
                if self.executor.stopping.is_cancelled() {
                    self.release_ready();
                }
                if more {
                    Duration::ZERO
                } else {
                    self.poll_interval
                }
            }
            Ok(Err(error)) => {
                self.config.record_error(&error);
                if error.may_have_claimed() {
                    self.stop_claiming();
                }
                RETRY_INTERVAL
            }
            Err(error) => {
                tracing::error!(%error, "claim of jobs panicked");
                self.stop_claiming();
                RETRY_INTERVAL
            }
        };
        let now = Instant::now();
        let capacity_at = self.capacity_at.map(|at| at.max(now + CAPACITY_INTERVAL));
        self.next_poll = capacity_at.map_or(now + interval, |at| at.min(now + interval));
    }

    /// Keeps a batch, unless its action holds its share of the capacity already.
    fn accept(&mut self, batch: LaneBatch) {
        let Some(first) = batch.jobs.first() else {
            return;
        };
        let name = ActionName::from(&first.job.lane);
        let most = self.max_lanes_per_action() + self.prefetch.ahead();
        let delays: Vec<Duration> = batch.jobs.iter().map(|job| job.queue_delay).collect();
        let bytes = bytes(&batch);
        match self.ready.add(name, batch, most) {
            Ok(()) => {
                self.held_bytes += bytes;
                for delay in delays {
                    self.config
                        .metrics
                        .jobs
                        .queue_delay
                        .observe(delay.as_secs_f64());
                }
            }
            Err(batch) => self.release(batch),
        }
    }

    /// Most lanes of one action that run here at once, so that a slow action leaves capacity for others,
    /// if there are any.
    fn max_lanes_per_action(&self) -> usize {
        let all = self.config.concurrency;
        let alone = self.config.observers.borrow().len() < 2;
        if alone { all } else { all - all / 4 }
    }

    fn start_batches(&mut self) {
        let share = self.max_lanes_per_action();
        while self.running.len() < self.config.concurrency
            && let Some((name, batch)) = self.ready.next(share)
        {
            let bytes = bytes(&batch);
            let lane = run_lane(batch, Arc::clone(&self.executor));
            self.running.spawn(async move {
                lane.await;
                (name, bytes)
            });
        }
        let running = i64::try_from(self.running.len()).unwrap_or(i64::MAX);
        self.config.metrics.jobs.in_flight.set(running);
    }

    /// Starts no more jobs, and lets those in flight finish: for a stop, or if this id may hold claims
    /// that are unknown here, as after a claim that timed out.
    fn stop_claiming(&mut self) {
        self.executor.stopping.cancel();
        self.release_ready();
    }

    /// Releases the batches that were not started.
    fn release_ready(&mut self) {
        for batch in self.ready.drain() {
            self.held_bytes = self.held_bytes.saturating_sub(bytes(&batch));
            self.release(batch);
        }
    }

    fn release(&mut self, batch: LaneBatch) {
        self.pending_bytes += bytes(&batch);
        self.pending_results.extend(released(batch));
    }

    fn on_batch_finished(&mut self, ran: Result<(ActionName, usize), JoinError>) {
        match ran {
            Ok((name, bytes)) => {
                self.ready.finished(&name);
                self.held_bytes = self.held_bytes.saturating_sub(bytes);
            }
            Err(error) => {
                tracing::error!(%error, "run of a job panicked");
                self.stop_claiming();
            }
        }
    }

    fn record_result(&mut self, result: FinishedClaim) {
        self.prefetch.job_finished(Instant::now());
        self.pending_bytes += result.job.event.get().len();
        self.pending_results.push(result);
    }

    /// Submits results to the queue, one call at a time.
    fn submit_results(&mut self) {
        while let Ok(result) = self.results.try_recv() {
            self.record_result(result);
        }
        if self.pending_results.is_empty() || !self.submission.is_empty() {
            return;
        }
        let count = self.pending_results.len().min(MAX_RESULTS_PER_CALL);
        let results: Vec<FinishedClaim> = self.pending_results.drain(..count).collect();
        self.pending_bytes = bytes_of(&self.pending_results);
        let submission = submit_results(self.config.clone(), self.id, results);
        self.submission.spawn(submission);
    }

    fn on_submitted(
        &mut self,
        submitted: Result<Result<(), (Vec<FinishedClaim>, QueueError)>, JoinError>,
    ) {
        match submitted {
            Ok(Ok(())) => {}
            Ok(Err((mut results, error))) => {
                self.config.record_error(&error);
                results.append(&mut self.pending_results);
                self.pending_bytes = bytes_of(&results);
                self.pending_results = results;
            }
            Err(error) => {
                tracing::error!(%error, "submission of job results panicked");
                self.stop_claiming();
            }
        }
    }

    /// Still submits results that are finished; the queue rejects those whose jobs other workers hold by
    /// now.
    async fn drain_after_lease_loss(&mut self) {
        self.ready.drain();
        let lease = self.config.lease_duration;
        let drain = async {
            loop {
                self.submit_results();
                if self.running.is_empty()
                    && self.pending_results.is_empty()
                    && self.submission.is_empty()
                {
                    break;
                }
                tokio::select! {
                    Some(result) = self.results.recv() => self.record_result(result),
                    Some(ran) = self.running.join_next() => self.on_batch_finished(ran),
                    Some(submitted) = self.submission.join_next() => self.on_submitted(submitted),
                }
            }
        };
        if timeout(lease, drain).await.is_err() {
            tracing::warn!("could not submit the results of some jobs; they are retried");
        }
    }
}

/// Bytes of a batch's events.
fn bytes(batch: &LaneBatch) -> usize {
    batch.jobs.iter().map(|one| one.job.event.get().len()).sum()
}

fn bytes_of(results: &[FinishedClaim]) -> usize {
    results.iter().map(|one| one.job.event.get().len()).sum()
}

/// Results that release the jobs of a batch.
fn released(batch: LaneBatch) -> impl Iterator<Item = FinishedClaim> {
    batch.jobs.into_iter().map(|claimed| FinishedClaim {
        job: Arc::new(claimed.job),
        claim: claimed.claim,
        outcome: JobOutcome::Released,
        enqueued_at: claimed.enqueued_at,
    })
}

/// Sleeps until a deadline; not at all if it has passed, since the shortest sleep of a timer is a
/// millisecond.
async fn until(moment: Option<Instant>) {
    if let Some(moment) = moment
        && moment > Instant::now()
    {
        sleep_until(moment).await;
    }
}
