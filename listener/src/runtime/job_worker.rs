//! The job worker of a session: beside the shards, or alone in a dedicated process.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::database_context::DatabaseContext;
use super::error::RunError;
use super::health_tick::{HEALTH_CHECK_INTERVAL, PROBE_TIMEOUT};
use super::session::SessionContext;
use crate::cache::follower::Follower;
use crate::database;
use crate::delivery::report::DeliveryReporter;
use crate::history::History;
use crate::jobs::backend::QueueBackendHandle;
use crate::jobs::reports::JobReports;
use crate::jobs::worker;
use crate::jobs::worker_config::WorkerConfig;
use crate::telemetry::pool_metrics::WatchedPool;

/// How long the job worker may drain after something else has failed.
const SHORT_DRAIN: Duration = Duration::from_secs(1);

/// Whether a process works on jobs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WorkerMode {
    /// It does, beside its shards.
    Embedded,
    /// It does, and on no shard.
    Dedicated,
    /// Dedicated processes do.
    Disabled,
}

/// The running job worker, which runs on when shards are lost.
pub(super) struct JobWorkerHandle {
    /// Notified when jobs are added.
    pub(super) added: Arc<Notify>,
    stop: CancellationToken,
    /// Nothing if the worker is disabled.
    task: Option<AbortOnDropHandle<()>>,
}

impl JobWorkerHandle {
    /// Starts the worker, unless it is disabled.
    pub(super) async fn start(
        session: &SessionContext<'_>,
        (deliveries, changes): (DeliveryReporter, Arc<Follower>),
        stop: &CancellationToken,
    ) -> Result<Self, RunError> {
        let added = Arc::new(Notify::new());
        let stop = stop.child_token();
        let task = if session.worker_mode == WorkerMode::Disabled {
            None
        } else {
            let (worker, counted) = session
                .worker_config(Arc::clone(&added), (deliveries, changes))
                .await?;
            let stop = stop.clone();
            let task = async move {
                let _counted = counted;
                worker::run(worker, stop).await;
            };
            Some(AbortOnDropHandle::new(tokio::spawn(task)))
        };
        Ok(Self { added, stop, task })
    }

    /// Stops the worker, and drains what is in flight if the session has ended in order. After a failure,
    /// which is to be recovered from first, there is little time: the rest is cut off, and done again.
    pub(super) async fn shut_down(self, is_drained: bool) {
        self.stop.cancel();
        let Some(task) = self.task else {
            return;
        };
        let ended = if is_drained {
            Ok(task.await)
        } else {
            tokio::time::timeout(SHORT_DRAIN, task).await
        };
        if let Ok(Err(error)) = ended {
            tracing::error!(%error, "job worker failed");
        }
    }
}

impl SessionContext<'_> {
    /// Returns the configuration of the job worker, with connections of its own, which are counted.
    async fn worker_config(
        &self,
        added: Arc<Notify>,
        (deliveries, changes): (DeliveryReporter, Arc<Follower>),
    ) -> Result<(WorkerConfig, WatchedPool), RunError> {
        let listener = self.listener;
        let pool = database::job_pool(&listener.database_url)?;
        let queue = &listener.queue;
        let counted = self.sources.metrics.pools.watch("jobs", &pool);
        let config = WorkerConfig {
            backend: QueueBackendHandle::open(listener, pool).await?,
            listener: Arc::from(listener.identity()),
            worker_name: self.member.name.clone(),
            observers: self.observers.clone(),
            concurrency: usize::try_from(queue.concurrency).unwrap_or(usize::MAX),
            max_running_total: queue.max_concurrency_total,
            lease_duration: queue.worker_lease_duration,
            drain_timeout: listener.drain_timeout,
            jobs_added: added,
            metrics: self.sources.metrics.clone(),
            spans: self.sources.spans.clone(),
            reports: JobReports::new(deliveries),
            changes,
        };
        Ok((config, counted))
    }

    /// Works on jobs only, until `stop` or until the session fails.
    pub(super) async fn run_worker(
        &self,
        database: &DatabaseContext,
        (history, changes): (&History, &Arc<Follower>),
        stop: &CancellationToken,
    ) -> Result<(), RunError> {
        let told = (history.deliveries(), Arc::clone(changes));
        let job_worker = JobWorkerHandle::start(self, told, stop).await?;
        let (found, newer) = watch::channel(None);
        let (pool, beating) = (&database.pool, CancellationToken::new());
        let heartbeat = self.heartbeat(pool).run(found, beating.clone());
        let heartbeat = AbortOnDropHandle::new(tokio::spawn(heartbeat));
        let commands = self.follow_commands(pool).run(beating.clone());
        let _commands = AbortOnDropHandle::new(tokio::spawn(commands));
        let mut outdated = None;
        let health = &self.sources.health;
        self.mark_started();
        tracing::info!(listener = self.listener.identity(), "working on jobs");
        let mut ticks = interval(HEALTH_CHECK_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut switched = std::pin::pin!(database.queue.switched());
        let mut result = Ok(());
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                why = &mut switched => {
                    result = Err(RunError::from(why));
                    break;
                }
                () = stop.cancelled() => break,
            }
            outdated.clone_from(&newer.borrow());
            if outdated.is_some() {
                break;
            }
            let answer = sqlx::query("select").execute(pool);
            let is_there = matches!(tokio::time::timeout(PROBE_TIMEOUT, answer).await, Ok(Ok(_)));
            health.read(is_there, Instant::now());
            let why = if is_there {
                None
            } else {
                database::diagnose(pool).await
            };
            health.is_blocked(why);
        }
        job_worker.shut_down(true).await;
        beating.cancel();
        let _expired = heartbeat.await;
        outdated.map_or(result, |newer| Err(newer.into()))
    }
}
