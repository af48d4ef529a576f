//! The backend that holds a listener's jobs, and the switch to the other one. This module owns
//! `observer.job_queue.backend`.
//!
//! Jobs are never moved. The backend on record stays in use until it holds no job, and only then does
//! the configured one replace it. A transaction that adds jobs locks the record until it ends (see
//! [`is_current`]), and a switch takes the same lock before it looks, so that no job is left behind.

use std::sync::Arc;
use std::time::Duration;

use ::queue::postgres::PostgresQueue;
use ::queue::redis::{Durability, OpenError, RedisQueue};
use ::queue::sql_transaction::begin;
use ::queue::{BackendKind, JobQueue, QueueConfig, QueueError};
use crds::config::{ListenerConfig, QueueBackend};
use sqlx::{PgConnection, PgPool};

use crate::redis_client::endpoint;

/// Interval of attempts to switch to the configured backend.
const SWITCH_INTERVAL: Duration = Duration::from_secs(5);

/// Limit of one attempt.
const SWITCH_TIMEOUT: Duration = Duration::from_secs(30);

/// Why a queue cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum QueueBackendError {
    /// The database could not say which backend holds the jobs.
    #[error("cannot read which backend holds the jobs: {}", ::queue::describe_error(.0))]
    Database(#[from] sqlx::Error),
    /// The old backend could not say whether it holds jobs.
    #[error("cannot read whether jobs are left in the queue's previous backend: {0}")]
    Queue(#[from] QueueError),
    /// The backend on record is a Redis that the configuration does not name.
    #[error(
        "jobs of this listener may be left in Redis: name the server in spec.redis, at least until the queue is empty"
    )]
    LeftInRedis,
    /// Redis cannot be used.
    #[error(transparent)]
    Redis(#[from] OpenError),
    /// The queue has to be opened again, in its new backend.
    #[error("the job queue is empty and now uses backend {0}")]
    Switched(BackendKind),
}

/// Whether jobs of a listener may be in Redis.
pub async fn is_in_redis(pool: &PgPool, listener: &str) -> Result<bool, sqlx::Error> {
    let recorded = sqlx::query_scalar("select backend from observer.job_queue where listener = $1")
        .bind(listener)
        .fetch_optional(pool)
        .await?;
    Ok(kind(recorded) == Some(BackendKind::Redis))
}

/// Whether a backend is the one on record; it remains so until the transaction ends.
pub(crate) async fn is_current(
    tx: &mut PgConnection,
    listener: &str,
    backend: BackendKind,
) -> Result<bool, sqlx::Error> {
    let recorded =
        sqlx::query_scalar("select backend from observer.job_queue where listener = $1 for share")
            .bind(listener)
            .fetch_optional(tx)
            .await?;
    Ok(kind(recorded).is_none_or(|recorded| recorded == backend))
}

/// Job queue of a listener in its current backend.
#[derive(Clone, Debug)]
pub struct QueueBackendHandle {
    /// The queue in the backend on record.
    pub queue: Arc<dyn JobQueue>,
    pool: PgPool,
    listener: Arc<str>,
    configured: BackendKind,
    durability: Durability,
}

impl QueueBackendHandle {
    /// Opens the queue, in the configured backend unless jobs are left in the other one. Jobs of the
    /// Postgres backend are reached through `pool`, and dead letters in any case.
    pub async fn open(listener: &ListenerConfig, pool: PgPool) -> Result<Self, QueueBackendError> {
        let configured = configured(listener);
        let handle = Self::open_recorded(listener, pool).await?;
        if handle.queue.backend() == configured {
            return Ok(handle);
        }
        // Before the switch, which is no use if the new one does not answer.
        let next = Self::open_in(listener, handle.pool.clone(), configured).await?;
        if handle.switch().await? {
            tracing::info!("{}", QueueBackendError::Switched(configured));
            return Ok(next);
        }
        handle.warn_not_switched().await?;
        Ok(handle)
    }

    /// Opens the queue in the backend on record, for commands, which never switch it.
    pub async fn open_recorded(
        listener: &ListenerConfig,
        pool: PgPool,
    ) -> Result<Self, QueueBackendError> {
        let configured = configured(listener);
        let recorded = record(&pool, &listener.identity(), configured).await?;
        Self::open_in(listener, pool, recorded).await
    }

    async fn open_in(
        listener: &ListenerConfig,
        pool: PgPool,
        backend: BackendKind,
    ) -> Result<Self, QueueBackendError> {
        let (identity, config) = (listener.identity(), &listener.queue);
        let queue_config = QueueConfig {
            lease: config.worker_lease_duration,
            retention: config.completed_job_retention,
        };
        let (queue, durability): (Arc<dyn JobQueue>, _) = match (backend, &config.redis) {
            (BackendKind::Postgres, _) => {
                let queue = PostgresQueue::new(pool.clone(), &identity, queue_config);
                (Arc::new(queue), Durability::Always)
            }
            (BackendKind::Redis, Some(server)) => {
                let endpoint = endpoint(server);
                let opening = RedisQueue::open(&endpoint, &identity, pool.clone(), queue_config);
                let queue = opening.await?;
                let durability = queue.durability();
                (Arc::new(queue), durability)
            }
            (BackendKind::Redis, None) => return Err(QueueBackendError::LeftInRedis),
        };
        Ok(Self {
            queue,
            pool,
            listener: Arc::from(identity),
            configured: configured(listener),
            durability,
        })
    }

    /// Logs which jobs a crash of the backend loses.
    pub(crate) fn log_durability(&self) {
        let lost = match self.durability {
            Durability::Always => return,
            Durability::EverySecond => "jobs of the last two seconds at most",
            Durability::System => "jobs that the system had not written yet",
            Durability::None => "jobs since the last snapshot",
            Durability::Unknown => {
                "an unknown number of jobs, as this user may not read the settings,"
            }
        };
        tracing::warn!(
            "if Redis crashes, {lost} are lost with it; appendonly yes and appendfsync always keep all of them"
        );
    }

    /// Whether another queue is in the same backend.
    pub(crate) fn is_same_backend(&self, other: &Self) -> bool {
        self.queue.backend() == other.queue.backend()
    }

    /// Waits until the queue has to be opened again, since it was switched to the configured backend.
    /// Never returns if that is the one in use.
    pub(crate) async fn switched(&self) -> QueueBackendError {
        if self.queue.backend() == self.configured {
            return std::future::pending().await;
        }
        loop {
            tokio::time::sleep(SWITCH_INTERVAL).await;
            match tokio::time::timeout(SWITCH_TIMEOUT, self.switch()).await {
                Ok(Ok(true)) => return QueueBackendError::Switched(self.configured),
                Ok(Ok(false)) => {}
                Ok(Err(error)) => {
                    tracing::debug!(%error, "cannot switch the queue's backend; retrying");
                }
                Err(_) => tracing::debug!("switch of the queue's backend timed out; retrying"),
            }
        }
    }

    /// Records the configured backend unless jobs are left in this one. Whether that is on record now.
    async fn switch(&self) -> Result<bool, QueueBackendError> {
        if !self.queue.is_empty().await? {
            return Ok(false);
        }
        let mut tx = begin(&self.pool).await?;
        let recorded = sqlx::query_scalar(
            "select backend from observer.job_queue where listener = $1 for update",
        )
        .bind(&*self.listener)
        .fetch_optional(&mut *tx)
        .await?;
        if kind(recorded) == Some(self.configured) {
            return Ok(true);
        }
        // From here on nobody adds jobs.
        if !self.queue.is_empty().await? {
            return Ok(false);
        }
        sqlx::query("update observer.job_queue set backend = $2 where listener = $1")
            .bind(&*self.listener)
            .bind(self.configured.as_str())
            .execute(&mut *tx)
            .await?;
        tx.commit().await?;
        Ok(true)
    }

    /// Logs that the configured backend is not used yet, and what can be done about it.
    async fn warn_not_switched(&self) -> Result<(), QueueBackendError> {
        let stats = self.queue.stats().await?;
        let jobs: u64 = stats.iter().map(|(_, stats)| stats.pending).sum();
        let (current, configured) = (self.queue.backend(), self.configured);
        tracing::warn!(
            jobs,
            "the job queue keeps backend {current} instead of {configured} while it holds jobs: {jobs} now. It switches \
             by itself once it is empty: suspend the observers that add jobs and wait, drop jobs \
             with `observer-listener jobs cancel`, or set spec.queue.backend back to {current}"
        );
        Ok(())
    }
}

fn configured(listener: &ListenerConfig) -> BackendKind {
    match &listener.queue.backend {
        QueueBackend::Postgres => BackendKind::Postgres,
        QueueBackend::Redis => BackendKind::Redis,
    }
}

/// What is on record; anything unknown counts as Postgres.
fn kind(recorded: Option<String>) -> Option<BackendKind> {
    recorded.map(|recorded| {
        if recorded == BackendKind::Redis.as_str() {
            BackendKind::Redis
        } else {
            BackendKind::Postgres
        }
    })
}

/// The backend on record. A listener that has none yet gets the configured one.
async fn record(
    pool: &PgPool,
    listener: &str,
    configured: BackendKind,
) -> Result<BackendKind, sqlx::Error> {
    let recorded = sqlx::query_scalar(
        "with added as (
             insert into observer.job_queue (listener, backend) values ($1, $2) on conflict (listener) do nothing
         )
         select backend from observer.job_queue where listener = $1",
    )
    .bind(listener)
    .bind(configured.as_str())
    .fetch_optional(pool)
    .await?;
    Ok(kind(recorded).unwrap_or(configured))
}
