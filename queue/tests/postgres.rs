//! The suite for the backend in Postgres, and what only that one has.

use std::sync::Arc;

use async_trait::async_trait;
use observer_queue::postgres::PostgresQueue;
use observer_queue::{JobQueue, Keeping};
use servers::postgres::PrivateServer;
use sqlx::{Connection, PgConnection, PgPool};

use crate::support::{Fixture, database};

/// Connections of one queue.
const CONNECTIONS: u32 = 4;

pub(crate) struct Postgres {
    url: String,
    pool: PgPool,
    server: Option<PrivateServer>,
}

async fn start() -> Postgres {
    let url = database::database().await;
    let pool = database::pool(&url, CONNECTIONS);
    Postgres {
        url,
        pool,
        server: None,
    }
}

async fn own() -> Postgres {
    let (server, url) = database::own_server().await;
    let pool = database::pool(&url, CONNECTIONS);
    Postgres {
        url,
        pool,
        server: Some(server),
    }
}

#[async_trait]
impl Fixture for Postgres {
    async fn open(&self, listener: &str, keeping: Keeping) -> Arc<dyn JobQueue> {
        let pool = database::pool(&self.url, CONNECTIONS);
        Arc::new(PostgresQueue::new(pool, listener, keeping))
    }

    fn pool(&self) -> &PgPool {
        &self.pool
    }

    fn transactional(&self) -> bool {
        true
    }

    async fn cut(&self) {
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
