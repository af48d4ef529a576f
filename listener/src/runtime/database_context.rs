//! The database of a session: its connections, its change log, and its job queue.

use std::time::Duration;

use sqlx::PgPool;
use tokio::time::Instant;
use uuid::Uuid;

use super::error::RunError;
use super::session::{DATABASE_OUTAGE_LIMIT, SessionContext};
use super::startup_log;
use crate::capture::change_log::ChangeLog;
use crate::checkpoint;
use crate::database::{self, AccessMode};
use crate::jobs::backend::QueueBackendHandle;
use crate::migrate;
use crate::telemetry::pool_metrics::WatchedPool;

/// Interval at which the database is opened again after the server has recovered.
const REOPEN_INTERVAL: Duration = Duration::from_millis(250);

/// A database that can be worked with, in one incarnation of its server.
pub(super) struct DatabaseContext {
    pub(super) pool: PgPool,
    pub(super) log: ChangeLog,
    pub(super) incarnation: Uuid,
    pub(super) queue: QueueBackendHandle,
    _counted: WatchedPool,
}

impl DatabaseContext {
    /// Connects, checks the schema, and initializes the checkpoints of a listener that has never run.
    pub(super) async fn open(session: &SessionContext<'_>) -> Result<Self, RunError> {
        let (listener, patience) = (session.listener, session.connect_patience);
        let pool =
            database::connect(&listener.database_url, patience, AccessMode::ReadWrite).await?;
        migrate::verify(&pool).await?;
        let log = ChangeLog::open(pool.clone()).await?;
        let incarnation = checkpoint::server_incarnation(&pool).await?;
        // One that has never run misses nothing from now on, whichever process works on it and when.
        let (name, shards, start) = (listener.identity(), listener.shards, listener.start_at);
        let entities = session.observers.borrow().read_entities();
        let first = (start, &*entities);
        if checkpoint::initialize(&pool, &log, &name, shards, first).await? {
            startup_log::log_first_run(&pool, &name, first).await;
        }
        let queue = QueueBackendHandle::open(listener, pool.clone()).await?;
        queue.log_durability();
        let pools = &session.sources.metrics.pools;
        Ok(Self {
            _counted: pools.watch("main", &pool),
            pool,
            log,
            incarnation,
            queue,
        })
    }

    /// Opens it again in the server's new incarnation.
    pub(super) async fn reopen(session: &SessionContext<'_>) -> Result<Self, RunError> {
        let deadline = Instant::now() + DATABASE_OUTAGE_LIMIT;
        loop {
            match Self::open(session).await {
                Err(error) if error.is_outage() && Instant::now() < deadline => {
                    session.sources.health.read(false, Instant::now());
                    tracing::warn!(%error, "database outage; retrying");
                    tokio::time::sleep(REOPEN_INTERVAL).await;
                }
                other => return other,
            }
        }
    }
}
