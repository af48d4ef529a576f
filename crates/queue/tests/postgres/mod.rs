//! The suite for the backend in Postgres, and what only that one has.

mod cut_off;
mod growth;
mod hammer;
mod steps;

use std::sync::Arc;

use async_trait::async_trait;
use observer_queue::postgres::PostgresQueue;
use observer_queue::{JobQueue, QueueConfig};
use sqlx::{Connection, PgConnection, PgPool};
use testkit::database::{TestDb, lazy_pool};
use testkit::servers::postgres::PrivateServer;

use crate::support::{Fixture, database, eventually};

/// Connections of one queue.
const CONNECTIONS: u32 = 4;

pub(crate) struct Postgres {
    url: String,
    pool: PgPool,
    /// Dropped with this.
    _database: Option<TestDb>,
    server: Option<PrivateServer>,
}

async fn start() -> Postgres {
    let database = database::database().await;
    Postgres {
        url: database.url.clone(),
        pool: database.pool.clone(),
        _database: Some(database),
        server: None,
    }
}

async fn own() -> Postgres {
    let (server, url) = database::own_server().await;
    let pool = lazy_pool(&url, CONNECTIONS);
    Postgres {
        url,
        pool,
        _database: None,
        server: Some(server),
    }
}

impl Postgres {
    /// A queue with slots so small that the head moves on all the time.
    fn with_small_partitions(&self, listener: &str, config: QueueConfig) -> Arc<dyn JobQueue> {
        self.with_partition_bytes(listener, config, 64 * 1024)
    }

    /// A queue with slots of so many bytes.
    fn with_partition_bytes(
        &self,
        listener: &str,
        config: QueueConfig,
        bytes: i64,
    ) -> Arc<dyn JobQueue> {
        let pool = lazy_pool(&self.url, CONNECTIONS);
        Arc::new(PostgresQueue::new(pool, listener, config).with_partition_bytes(bytes))
    }

    async fn until_somebody_waits(&self) {
        eventually("somebody waits for a lock", async || {
            let waiting: i64 = sqlx::query_scalar(
                "select count(*) from pg_stat_activity
                 where wait_event_type = 'Lock' and datname = current_database()",
            )
            .fetch_one(&self.pool)
            .await
            .unwrap();
            (waiting > 0).then_some(())
        })
        .await;
    }
}

#[async_trait]
impl Fixture for Postgres {
    async fn open(&self, listener: &str, config: QueueConfig) -> Arc<dyn JobQueue> {
        let pool = lazy_pool(&self.url, CONNECTIONS);
        Arc::new(PostgresQueue::new(pool, listener, config))
    }

    fn pool(&self) -> &PgPool {
        &self.pool
    }

    fn transactional(&self) -> bool {
        true
    }

    async fn cut_connections(&self) {
        let mut connection = PgConnection::connect(&self.url).await.unwrap();
        sqlx::query(
            "select pg_terminate_backend(pid) from pg_stat_activity
             where pid <> pg_backend_pid() and datname = current_database()",
        )
        .execute(&mut connection)
        .await
        .unwrap();
    }

    async fn stop(&self) {
        self.server.as_ref().unwrap().stop().await.unwrap();
    }

    async fn crash(&self) {
        self.server.as_ref().unwrap().crash().await.unwrap();
    }

    async fn resume(&self) {
        self.server.as_ref().unwrap().resume().await.unwrap();
    }
}

crate::suite::suite!(start, own);
