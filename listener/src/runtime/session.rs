//! A session: takes part in the listener's membership, and reads, dispatches and saves for the shards
//! that this process owns.
//!
//! One reader, one dispatcher and one writer of checkpoints serve all shards; shards come and go while
//! the others are worked on. A process takes part only while its database is there: what it cannot work
//! on is better left to others.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crds::config::ListenerConfig;
use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use lease::membership::ShardLease;
use tokio::sync::{Mutex, Notify, mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::background::{SHUTDOWN_GRACE, first_error};
use super::database_context::DatabaseContext;
use super::error::RunError;
use super::health_tick::HEALTH_CHECK_INTERVAL;
use super::job_worker::{JobWorkerHandle, WorkerMode};
use super::session_tasks::newer_config;
use super::shard_worker::ShardWorker;
use super::tracking_watch::ReportedFindings;
use crate::cache::follower::Follower;
use crate::capture::change_log::LogError;
use crate::capture::notifications::AppendNotifications;
use crate::capture::poll_loop::poll_loop;
use crate::capture::reader::{Assignment, LogReader, ReaderIdentity};
use crate::coordination::heartbeat::NewerConfig;
use crate::coordination::membership::{Coordination, MemberIdentity, Membership};
use crate::coordination::unclaimed_shards::UnclaimedShards;
use crate::dispatch::{CheckpointWriter, DispatchError, Dispatcher, DispatcherConfig};
use crate::history::{History, LogSource};
use crate::jobs::backend::{QueueBackendError, QueueBackendHandle};
use crate::observers::Observers;
use crate::observers::circuit_metrics::EndpointCollector;
use crate::server::AppState;
use crate::server::api::ApiParts;

/// Pages read ahead of dispatch.
const PAGES_AHEAD: usize = 1;

/// After a database outage of this length the shards are left to other processes.
pub(super) const DATABASE_OUTAGE_LIMIT: Duration = Duration::from_secs(15);

/// What a session works with and reports to.
#[derive(Debug)]
pub(super) struct SessionContext<'a> {
    /// The listener.
    pub(super) listener: &'a ListenerConfig,
    /// This process.
    pub(super) member: &'a MemberIdentity,
    /// Where it finds the other processes.
    pub(super) coordination: &'a Coordination,
    /// The observers, which may be replaced while it runs.
    pub(super) observers: watch::Receiver<Arc<Observers>>,
    /// Metrics, health, and what the operator is told.
    pub(super) sources: &'a AppState,
    /// How long it waits for a server that refuses connections.
    pub(super) connect_patience: Duration,
    /// Whether it works on jobs.
    pub(super) worker_mode: WorkerMode,
    /// Tables that were reported as not tracked.
    pub(super) findings: ReportedFindings,
    /// Set once a session of the listener has taken part.
    pub(super) has_run: &'a AtomicBool,
}

impl SessionContext<'_> {
    /// Takes part until `stop`, or until the session fails. What was not saved by then is done again from
    /// the checkpoints.
    pub(super) async fn run(&self, stop: &CancellationToken) -> Result<(), RunError> {
        let database = tokio::select! {
            opened = DatabaseContext::open(self) => opened?,
            () = stop.cancelled() => return Ok(()),
        };
        let heartbeat = self.heartbeat(&database.pool).beat().await;
        if let Some(newer) = heartbeat.map_err(LogError::Database)? {
            return Err(newer.into());
        }
        let metrics = &self.sources.metrics;
        let endpoints = EndpointCollector::new(self.observers.clone())?;
        let _endpoints = metrics.register_circuits(endpoints)?;
        let history = self.start_history(&database.pool).await;
        let _api = self.sources.api.open(ApiParts {
            listener: self.listener,
            queue: &database.queue.queue,
            observers: self.observers.clone(),
            coordination: self.coordination,
            search: history.index().cloned(),
        })?;
        let changes = Arc::new(self.follow_changes()?);
        let following = {
            let (changes, stop) = (Arc::clone(&changes), stop.child_token());
            AbortOnDropHandle::new(tokio::spawn(async move { changes.run(stop).await }))
        };
        self.track_listed(&database.pool).await;
        let source = self.start_source()?;
        let parts = (&history, &changes, &source.appended);
        let result = if self.worker_mode == WorkerMode::Dedicated {
            Box::pin(self.run_worker(&database, (&history, &changes), stop)).await
        } else {
            Box::pin(self.run_shards(database, parts, stop)).await
        };
        drop(following);
        source.shut_down().await;
        history.shut_down().await;
        result
    }

    /// Marks that this process takes part from now on, and that nothing keeps it from its work.
    pub(super) fn mark_started(&self) {
        self.has_run.store(true, Ordering::Relaxed);
        self.sources.health.started();
        self.sources.reporter.joined();
    }

    /// Works on shards, through restarts of the database server.
    async fn run_shards(
        &self,
        mut database: DatabaseContext,
        (history, changes, appended): (&History, &Arc<Follower>, &Arc<AppendNotifications>),
        stop: &CancellationToken,
    ) -> Result<(), RunError> {
        let metrics = &self.sources.metrics;
        let mut membership =
            Membership::join(self.listener, self.member, self.coordination, metrics)?;
        self.mark_started();
        let (name, shards) = (self.listener.identity(), self.listener.shards);
        let (member, observers) = (self.member.name.as_str(), self.observers.borrow().len());
        tracing::info!(listener = name, shards, observers, member, "running");
        let mut held = BTreeMap::new();
        let told = (history.deliveries(), Arc::clone(changes));
        let job_worker = JobWorkerHandle::start(self, told, stop).await?;
        let result = loop {
            let woken = (&job_worker.added, appended);
            match ShardRuntime::start(self, &database, (history, changes), woken)
                .run(&mut membership, &mut held, stop)
                .await
            {
                Err(error) if error.is_server_restart() && !stop.is_cancelled() => {
                    tracing::warn!(
                        listener = name,
                        "{error}: resuming from the last checkpoint"
                    );
                    match DatabaseContext::reopen(self).await {
                        Ok(found) if !found.queue.is_same_backend(&database.queue) => {
                            let switched = QueueBackendError::Switched(found.queue.queue.backend());
                            break Err(RunError::from(switched));
                        }
                        Ok(found) => database = found,
                        Err(error) => break Err(error),
                    }
                }
                other => break other,
            }
        };
        for shard in held.keys() {
            self.sources.reporter.shard_released(*shard);
        }
        let is_drained = matches!(
            result,
            Ok(())
                | Err(RunError::ConfigOutdated { .. }
                    | RunError::Queue(QueueBackendError::Switched(_)))
        );
        job_worker.shut_down(is_drained).await;
        held.clear();
        metrics.shards_owned.set(0);
        membership.shutdown().await?;
        result
    }
}

/// Everything that works on the shards in one incarnation of the server.
struct ShardRuntime<'a> {
    session: &'a SessionContext<'a>,
    worker: ShardWorker<'a>,
    dispatcher: AbortOnDropHandle<Result<(), DispatchError>>,
    tasks: JoinSet<Result<(), RunError>>,
    reading: CancellationToken,
    newer: watch::Receiver<Option<NewerConfig>>,
    queue: &'a QueueBackendHandle,
}

impl<'a> ShardRuntime<'a> {
    fn start(
        session: &'a SessionContext<'a>,
        database: &'a DatabaseContext,
        (history, changes): (&'a History, &Arc<Follower>),
        (jobs_added, appended): (&Arc<Notify>, &Arc<AppendNotifications>),
    ) -> Self {
        let (listener, sources) = (session.listener, session.sources);
        let name: Arc<str> = Arc::from(listener.identity());
        let reading = CancellationToken::new();
        let mut tasks: JoinSet<Result<(), RunError>> = JoinSet::new();
        let owner = ReaderIdentity {
            listener: Arc::clone(&name),
            shards: listener.shards,
            server_incarnation: database.incarnation,
        };
        let newer = session.start_tasks(database, &name, &reading, &mut tasks);
        let reader = LogReader::new(database.log.clone(), owner).woken_by(Arc::clone(appended));
        let (assigned, assignment) = watch::channel(Assignment::new());
        let (send, batches) = mpsc::channel(PAGES_AHEAD);
        {
            let until = reading.clone();
            let told = (Arc::clone(&sources.health), sources.metrics.clone());
            let max_poll_interval = listener.max_poll_interval;
            let changes = Arc::clone(changes);
            tasks.spawn(async move {
                let reading = (reader, || changes.catch_up());
                Ok(poll_loop(reading, assignment, send, told, max_poll_interval, until).await?)
            });
        }
        let dispatcher = Dispatcher::new(DispatcherConfig {
            observers: session.observers.clone(),
            shard_count: listener.shards,
            assignment: assigned,
            jobs_added: Arc::clone(jobs_added),
            writer: CheckpointWriter {
                pool: database.pool.clone(),
                queue: Arc::clone(&database.queue.queue),
                listener: name,
                server_incarnation: database.incarnation,
                health: Arc::clone(&sources.health),
                arrivals: Arc::clone(&sources.arrivals),
                metrics: sources.metrics.clone(),
            },
            reporter: Arc::clone(&sources.reporter),
            deliveries: history.deliveries(),
            spans: sources.spans.clone(),
            max_concurrency: usize::try_from(listener.max_concurrency).unwrap_or(usize::MAX),
            checkpoint_interval: listener.checkpoint_interval,
            stalled_after: listener.stalled_after,
        });
        let (commands, requests) = mpsc::channel(usize::from(listener.shards));
        Self {
            dispatcher: AbortOnDropHandle::new(tokio::spawn(dispatcher.run(batches, requests))),
            worker: ShardWorker {
                listener,
                pool: &database.pool,
                log: &database.log,
                queue: &*database.queue.queue,
                commands,
                sources,
                history,
                source: Arc::new(LogSource {
                    log: database.log.clone(),
                    incarnation: database.incarnation,
                    queue: Arc::clone(&database.queue.queue),
                }),
                claiming: Mutex::new(()),
            },
            session,
            tasks,
            reading,
            newer,
            queue: &database.queue,
        }
    }

    /// Works on the shards that are held and on those that come, until all are released; then shuts down.
    async fn run(
        mut self,
        membership: &mut Membership,
        held: &mut BTreeMap<u16, Arc<ShardLease>>,
        stop: &CancellationToken,
    ) -> Result<(), RunError> {
        let result = self.run_until_released(membership, held, stop).await;
        self.reading.cancel();
        // The dispatcher ends when nobody sends commands any more.
        let Self {
            worker,
            mut tasks,
            dispatcher,
            ..
        } = self;
        let pool = worker.pool;
        drop(worker);
        let shutdown = async {
            // An error of it is part of the result, if it has ended.
            if !dispatcher.is_finished() {
                let _ended = dispatcher.await;
            }
            while tasks.join_next().await.is_some() {}
            pool.close().await;
        };
        let _in_time = tokio::time::timeout(SHUTDOWN_GRACE, shutdown).await;
        result
    }

    async fn run_until_released(
        &mut self,
        membership: &mut Membership,
        held: &mut BTreeMap<u16, Arc<ShardLease>>,
        stop: &CancellationToken,
    ) -> Result<(), RunError> {
        let worker = &self.worker;
        let work = |lease: Arc<ShardLease>| async move {
            let shard = lease.shard();
            (shard, worker.run(lease).await)
        };
        let mut at_work: FuturesUnordered<_> = held.values().cloned().map(work).collect();
        let mut ticks = interval(HEALTH_CHECK_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut open, mut unclaimed) = (true, UnclaimedShards::default());
        let mut switched = std::pin::pin!(self.queue.switched());
        let mut failed = Ok(());
        while open || !at_work.is_empty() {
            tokio::select! {
                lease = membership.shard_leases.recv(), if open => match lease {
                    Some(lease) => {
                        let lease = Arc::new(lease);
                        held.insert(lease.shard(), Arc::clone(&lease));
                        at_work.push(work(lease));
                    }
                    None if membership.is_leaving() => open = false,
                    None => return Err(membership.failure().await.into()),
                },
                Some((shard, ended)) = at_work.next() => {
                    held.remove(&shard);
                    if let Err(error) = ended {
                        // The other shards are drained and saved before this is reported.
                        failed = failed.and(Err(RunError::from(error)));
                        membership.leave();
                    }
                }
                ended = &mut self.dispatcher => return match ended? {
                    // The reader itself reports why.
                    Err(DispatchError::Reader) => Err(first_error(&mut self.tasks).await),
                    other => other.map_err(RunError::from),
                },
                error = first_error(&mut self.tasks) => return Err(error),
                () = stop.cancelled(), if !membership.is_leaving() => membership.leave(),
                newer = newer_config(&mut self.newer), if !membership.is_leaving() => {
                    // What is in flight is finished and saved before this is reported.
                    failed = failed.and(Err(RunError::from(newer)));
                    membership.leave();
                }
                why = &mut switched, if !membership.is_leaving() => {
                    failed = failed.and(Err(RunError::from(why)));
                    membership.leave();
                }
                _ = ticks.tick() => {
                    let (held, pool) = (held.keys().copied(), self.worker.pool);
                    self.session.health_tick(membership, pool, held, &mut unclaimed).await?;
                }
            }
        }
        failed
    }
}
