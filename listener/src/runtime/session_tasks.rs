//! What runs beside the shards of a session: job metrics, retention, the watch on tables, heartbeats.

use std::sync::Arc;
use std::time::Duration;

use crds::config::SourceConfig;
use sqlx::PgPool;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::database_context::DatabaseContext;
use super::error::RunError;
use super::job_worker::WorkerMode;
use super::session::SessionContext;
use super::tracking_watch::{self, Captured};
use crate::backfill::{BackfillStore, Backfiller, PageScope};
use crate::cache::follower::Follower;
use crate::capture::notifications::AppendNotifications;
use crate::capture::retention;
use crate::coordination::heartbeat::{Heartbeat, NewerConfig};
use crate::coordination::process_commands::CommandFollower;
use crate::database::{self, DatabaseError};
use crate::dead_letters::retention as dead_letter_retention;
use crate::history::{self, History, HistoryContext};
use crate::ingest::{self, Ingester};
use crate::jobs::queue_metrics;
use crate::tracking::prepare::Preparer;

/// Longest wait at the start for tables to be tracked.
const TRACK_TIMEOUT: Duration = Duration::from_secs(10);

impl SessionContext<'_> {
    /// Starts the tasks beside the shards, which end with `reading`. The heartbeats report a newer
    /// configuration.
    pub(super) fn start_tasks(
        &self,
        database: &DatabaseContext,
        name: &Arc<str>,
        reading: &CancellationToken,
        tasks: &mut JoinSet<Result<(), RunError>>,
    ) -> watch::Receiver<Option<NewerConfig>> {
        let (listener, sources, pool) = (self.listener, self.sources, &database.pool);
        let reporter = || Arc::clone(&sources.reporter);
        let job_metrics = queue_metrics::report(
            Arc::clone(&database.queue.queue),
            reporter(),
            sources.metrics.jobs.clone(),
        );
        let dead_letters = dead_letter_retention::run_retention(
            pool.clone(),
            Arc::clone(name),
            listener.dead_letter_retention,
            reporter(),
            sources.metrics.clone(),
        );
        let source = listener.source.wal();
        let captured = match &listener.source {
            SourceConfig::Triggers(_) => Some(pool.clone()),
            // Topics have no tables.
            SourceConfig::Kafka(_) => None,
            // A URL that cannot be used is reported by what reads it.
            SourceConfig::Wal(source) => ingest::catalog_pool(&source.database_url).ok(),
        };
        let captured = captured.map(|pool| Captured {
            pool,
            source: source.cloned(),
            listed: listener.source.tracked_tables().to_vec(),
        });
        let parts = (self.observers.clone(), self.findings.clone(), reporter());
        let for_tracking = Arc::clone(name);
        let tracking = async move {
            if let Some(captured) = captured {
                tracking_watch::watch(captured, for_tracking, parts.0, parts.1, parts.2).await;
            }
        };
        let commands = self.follow_commands(pool).run(reading.clone());
        tasks.spawn(async move {
            commands.await;
            Ok(())
        });
        let until = reading.clone();
        tasks.spawn(async move {
            let together = async { tokio::join!(job_metrics, dead_letters, tracking) };
            until.run_until_cancelled(together).await;
            Ok(())
        });
        let (found, newer) = watch::channel(None);
        let heartbeat = self.heartbeat(pool).run(found, reading.clone());
        let metrics = sources.metrics.clone();
        let retention =
            retention::run_retention(pool.clone(), listener.retention, metrics, reading.clone());
        tasks.spawn(async move {
            tokio::join!(heartbeat, retention);
            Ok(())
        });
        newer
    }

    /// Tracks the tables that are listed, before a backfill looks for what triggers log. What fails is tried again,
    /// and told, by the watch on tables.
    pub(super) async fn track_listed(&self, pool: &PgPool) {
        let listed = self.listener.source.tracked_tables();
        if self.worker_mode == WorkerMode::Dedicated || listed.is_empty() {
            return;
        }
        let mut preparer = Preparer::new(listed.to_vec());
        match timeout(TRACK_TIMEOUT, preparer.round(pool)).await {
            Ok(Ok(_)) | Err(_) => {}
            Ok(Err(error)) => tracing::debug!(%error, "cannot track tables; retrying"),
        }
    }

    /// Starts the history of the listener, if it keeps one. A history that cannot be kept is logged and
    /// delays no delivery.
    pub(super) async fn start_history(&self, pool: &PgPool) -> History {
        let context = HistoryContext {
            observers: self.observers.clone(),
            metrics: self.sources.metrics.clone(),
            reporter: Arc::clone(&self.sources.reporter),
        };
        let history = History::start(self.listener, context).unwrap_or_else(|error| {
            tracing::error!(%error, "cannot keep the history of events; see spec.search");
            History::default()
        });
        if self.listener.search.is_none() {
            let name = self.listener.identity();
            if let Err(error) = history::position::remove(pool, &name, None).await {
                tracing::debug!(%error, "cannot remove the positions of an earlier history");
            }
        }
        history
    }

    /// Starts to read the source that fills the change log, if there is one besides triggers, and to be told of
    /// what is appended; and to work on backfills.
    pub(super) fn start_source(&self) -> Result<SourceTasks, DatabaseError> {
        let (listener, stop) = (self.listener, CancellationToken::new());
        let mut tasks = SourceTasks {
            appended: Arc::default(),
            stop: stop.clone(),
            ingester: None,
            follower: None,
        };
        if self.worker_mode == WorkerMode::Dedicated {
            return Ok(tasks);
        }
        let pool = database::source_pool(&listener.database_url)?;
        if matches!(listener.source, SourceConfig::Triggers(_)) {
            let scope = PageScope::Listener(listener.identity());
            let (holder, lease) = (self.member.name.clone(), listener.lease.duration);
            let backfiller = Backfiller {
                store: BackfillStore::new(pool, scope, holder, lease),
                arrivals: Arc::clone(&self.sources.arrivals),
                metrics: self.sources.metrics.backfill.clone(),
            };
            tasks.ingester = Some(AbortOnDropHandle::new(tokio::spawn(backfiller.run(stop))));
            return Ok(tasks);
        }
        let ingester = Ingester {
            source: listener.source.clone(),
            log: pool.clone(),
            listener: listener.identity(),
            holder: self.member.name.clone(),
            lease: listener.lease.duration,
            metrics: self.sources.metrics.source.clone(),
            backfill_metrics: self.sources.metrics.backfill.clone(),
            arrivals: Arc::clone(&self.sources.arrivals),
            reporter: Arc::clone(&self.sources.reporter),
        };
        tasks.ingester = Some(AbortOnDropHandle::new(tokio::spawn(ingester.run(stop))));
        let appended = Arc::clone(&tasks.appended);
        let following = async move { appended.follow(pool).await };
        tasks.follower = Some(AbortOnDropHandle::new(tokio::spawn(following)));
        Ok(tasks)
    }

    /// Returns what follows changes for the cache of results.
    pub(super) fn follow_changes(&self) -> Result<Follower, DatabaseError> {
        let listener = self.listener;
        let pool = database::cache_pool(&listener.database_url)?;
        let of = (Arc::from(listener.identity()), listener.retention);
        let observers = self.observers.clone();
        Ok(Follower::new(pool, of, move || {
            let observers = observers.borrow();
            (
                observers.results().clone(),
                Arc::clone(observers.cache_needs()),
            )
        }))
    }

    /// Returns what obeys people's commands to all processes.
    pub(super) fn follow_commands(&self, pool: &PgPool) -> CommandFollower {
        CommandFollower {
            pool: pool.clone(),
            listener: Arc::from(self.listener.identity()),
            member: self.member.name.clone(),
            observers: self.observers.clone(),
        }
    }

    /// Returns the heartbeat of this process.
    pub(super) fn heartbeat(&self, pool: &PgPool) -> Heartbeat {
        let (listener, observers) = (self.listener.identity(), self.observers.clone());
        Heartbeat::new(
            pool.clone(),
            &listener,
            self.member,
            observers,
            self.coordination,
            (
                self.sources.metrics.process.clock_offset.clone(),
                self.sources.metrics.activity.clone(),
            ),
        )
    }
}

/// What fills the change log, and tells of it.
pub(super) struct SourceTasks {
    /// Told when something was appended.
    pub(super) appended: Arc<AppendNotifications>,
    stop: CancellationToken,
    /// Reads a source, or backfills where triggers fill the log.
    ingester: Option<AbortOnDropHandle<()>>,
    follower: Option<AbortOnDropHandle<()>>,
}

impl SourceTasks {
    /// Leaves the source to other processes.
    pub(super) async fn shut_down(self) {
        self.stop.cancel();
        drop(self.follower);
        if let Some(ingester) = self.ingester {
            let _ended = ingester.await;
        }
    }
}

/// Waits until another process has a newer configuration.
pub(super) async fn newer_config(newer: &mut watch::Receiver<Option<NewerConfig>>) -> NewerConfig {
    if let Ok(found) = newer.wait_for(Option::is_some).await
        && let Some(found) = found.clone()
    {
        return found;
    }
    // The heartbeats have ended and report nothing more.
    std::future::pending().await
}
