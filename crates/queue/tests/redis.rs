//! The suite for the backend in Redis, and what only that one has.

mod inspect;
mod loss;
mod steps;

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use ::redis::AsyncConnectionConfig;
use ::redis::aio::MultiplexedConnection;
use async_trait::async_trait;
use observer_queue::redis::RedisQueue;
use observer_queue::{JobQueue, QueueConfig};
use redis_connection::RedisEndpoint;
use sqlx::PgPool;
use testkit::database::TestDb;
use testkit::servers::redis::{Options, PrivateRedis};
use tokio::sync::OnceCell;

use crate::support::{Fixture, database};

/// Tests that share a server have a database each.
const DATABASES: u32 = 1000;

static SERVER: OnceCell<PrivateRedis> = OnceCell::const_new();

pub(crate) struct Redis {
    url: String,
    database: u32,
    db: TestDb,
    server: Option<PrivateRedis>,
}

async fn server() -> PrivateRedis {
    let options = Options {
        settings: vec![format!("databases {DATABASES}")],
        ..Options::default()
    };
    PrivateRedis::start(&options).await.unwrap()
}

async fn start() -> Redis {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let database = NUMBER.fetch_add(1, Ordering::Relaxed);
    let server = SERVER.get_or_init(server).await;
    Redis {
        url: format!("{}{database}", server.url()),
        database,
        db: database::database().await,
        server: None,
    }
}

async fn own() -> Redis {
    let server = server().await;
    Redis {
        url: server.url(),
        database: 0,
        db: database::database().await,
        server: Some(server),
    }
}

impl Redis {
    async fn redis(&self, listener: &str, config: QueueConfig) -> Arc<RedisQueue> {
        let queue = RedisQueue::open(
            &RedisEndpoint::standalone(&self.url),
            listener,
            self.db.pool.clone(),
            config,
        )
        .await;
        Arc::new(queue.unwrap())
    }

    async fn connection(&self) -> MultiplexedConnection {
        let client = ::redis::Client::open(&*self.url).unwrap();
        // A busy server answers later than the library would wait.
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(None)
            .set_response_timeout(None);
        let connecting = client.get_multiplexed_async_connection_with_config(&config);
        connecting.await.unwrap()
    }
}

#[async_trait]
impl Fixture for Redis {
    async fn open(&self, listener: &str, config: QueueConfig) -> Arc<dyn JobQueue> {
        self.redis(listener, config).await
    }

    fn pool(&self) -> &PgPool {
        &self.db.pool
    }

    fn transactional(&self) -> bool {
        false
    }

    async fn cut_connections(&self) {
        let mut connection = self.connection().await;
        let clients: String = ::redis::cmd("CLIENT")
            .arg("LIST")
            .query_async(&mut connection)
            .await
            .unwrap();
        let ours = format!(" db={} ", self.database);
        for client in clients.lines().filter(|client| client.contains(&ours)) {
            let id = client.strip_prefix("id=").unwrap().split(' ').next();
            // Its own goes last or not at all.
            let _: Result<u32, _> = ::redis::cmd("CLIENT")
                .arg(&["KILL", "ID", id.unwrap(), "SKIPME", "yes"])
                .query_async(&mut connection)
                .await;
        }
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
