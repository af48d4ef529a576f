//! Work on jobs, beside the shards or alone.

use std::sync::Arc;
use std::time::Duration;

use sqlx::PgPool;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::error::RunError;
use super::session::{Job, LOOK_EVERY, PROBE};
use crate::database;
use crate::jobs::backend::QueueBackendHandle;
use crate::jobs::worker;
use crate::jobs::worker_config::WorkerConfig;

/// How long work on jobs may go on after something else has failed.
const SHORT_DRAIN: Duration = Duration::from_secs(1);

/// Whether a process works on jobs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Jobs {
    /// It does, beside its shards.
    Too,
    /// It does, and on no shard.
    Only,
    /// Others do.
    Elsewhere,
}

/// Work on jobs, which goes on whatever becomes of the shards.
pub(crate) struct Working {
    pub(crate) added: Arc<Notify>,
    stop: CancellationToken,
    /// Nothing where jobs are worked on by other pods.
    task: Option<AbortOnDropHandle<()>>,
}

impl Working {
    pub(crate) async fn begin(job: &Job<'_>, stop: &CancellationToken) -> Result<Self, RunError> {
        let added = Arc::new(Notify::new());
        let stop = stop.child_token();
        let task = if job.jobs == Jobs::Elsewhere {
            None
        } else {
            let worker = job.worker(Arc::clone(&added)).await?;
            let task = tokio::spawn(worker::run(worker, stop.clone()));
            Some(AbortOnDropHandle::new(task))
        };
        Ok(Self { added, stop, task })
    }

    /// Lets what is under way come to its end. After a failure, which is to be put right first,
    /// there is little time for that: the rest is cut off, and done again.
    pub(crate) async fn end(self, after_failure: bool) {
        self.stop.cancel();
        let Some(task) = self.task else {
            return;
        };
        let ended = if after_failure {
            tokio::time::timeout(SHORT_DRAIN, task).await
        } else {
            Ok(task.await)
        };
        if let Ok(Err(error)) = ended {
            tracing::error!(%error, "the work on jobs broke down");
        }
    }
}

impl Job<'_> {
    /// What work on jobs needs.
    async fn worker(&self, added: Arc<Notify>) -> Result<WorkerConfig, RunError> {
        let listener = self.listener;
        let pool = database::connections_for_jobs(&listener.database_url)?;
        let config = &listener.queue;
        Ok(WorkerConfig {
            backend: QueueBackendHandle::open(listener, pool).await?,
            listener: Arc::from(listener.identity()),
            worker_name: self.member.name.clone(),
            observers: self.observers.clone(),
            concurrency: usize::try_from(config.concurrency).unwrap_or(usize::MAX),
            max_running_total: config.max_concurrency_total,
            lease_duration: config.worker_lease_duration,
            drain_timeout: listener.drain_timeout,
            jobs_added: added,
            metrics: self.sources.metrics.clone(),
        })
    }

    /// Works on jobs alone.
    pub(crate) async fn work_on_jobs(
        &self,
        pool: &PgPool,
        place: &QueueBackendHandle,
        stop: &CancellationToken,
    ) -> Result<(), RunError> {
        let working = Working::begin(self, stop).await?;
        let (found, newer) = watch::channel(None);
        let beating = CancellationToken::new();
        let heartbeat = self.heartbeat(pool).run(found, beating.clone());
        let heartbeat = AbortOnDropHandle::new(tokio::spawn(heartbeat));
        let mut outdated = None;
        let health = &self.sources.health;
        health.started();
        self.sources.reporter.joined();
        tracing::info!(listener = self.listener.identity(), "working on jobs");
        let mut looks = interval(LOOK_EVERY);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut switched = std::pin::pin!(place.switched());
        let mut result = Ok(());
        loop {
            tokio::select! {
                _ = looks.tick() => {}
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
            let there = matches!(tokio::time::timeout(PROBE, answer).await, Ok(Ok(_)));
            health.read(there, Instant::now());
            let why = if there {
                None
            } else {
                database::trouble(pool).await
            };
            health.is_blocked(why);
        }
        working.end(false).await;
        beating.cancel();
        let _expired = heartbeat.await;
        outdated.map_or(result, |newer| Err(newer.into()))
    }
}
