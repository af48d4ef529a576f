//! One Postgres for the whole run, and a migrated database of its own for each test.
//!
//! The version is chosen by `OBSERVER_TEST_POSTGRES`: 18 (downloaded, the default), 15 (as
//! Debian installs it), or the folder with the programs of another.

pub(crate) mod certs;
pub(crate) mod counters;
pub(crate) mod fleet;
pub(crate) mod kafka;
pub(crate) mod link;
pub(crate) mod listener;
pub(crate) mod nats;
pub(crate) mod probe;
pub(crate) mod program;
pub(crate) mod rows;
pub(crate) mod smtp;
pub(crate) mod told;
pub(crate) mod writers;

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use observer_listener::migrate::migrate;
use servers::binaries::Binaries;
use servers::postgres::PrivateServer;
use sqlx::postgres::PgPoolOptions;
use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection, PgPool};
use tokio::sync::OnceCell;

/// Made once, migrated, and then only copied.
const TEMPLATE: &str = "template_migrated";

static SERVER: OnceCell<PrivateServer> = OnceCell::const_new();

/// A database of the test's own; dropped with it.
pub(crate) struct TestDb {
    /// URL as the super-user.
    pub(crate) url: String,
    /// Connections as the super-user.
    pub(crate) pool: PgPool,
    name: String,
    admin: String,
}

/// Looks again and again until there is something to see; fails with `what` was expected.
pub(crate) async fn eventually<T>(what: &str, look: impl AsyncFn() -> Option<T>) -> T {
    eventually_or(look, async || what.to_owned()).await
}

/// The same; what there is instead is asked for where it waited in vain.
pub(crate) async fn eventually_or<T>(
    look: impl AsyncFn() -> Option<T>,
    instead: impl AsyncFnOnce() -> String,
) -> T {
    let deadline = Instant::now() + listener::SOON;
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(
            Instant::now() < deadline,
            "waited in vain: {}",
            instead().await
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Waits for `count` of `what`; fails once there have been no more of them for long, so that
/// a machine with much else to do may take its time over many.
pub(crate) async fn amounts_to(what: &str, count: u64, look: impl AsyncFn() -> u64) {
    let mut seen = 0;
    loop {
        seen = eventually(&format!("{count} {what}, after {seen}"), async || {
            let now = look().await;
            (now > seen || now >= count).then_some(now)
        })
        .await;
        if seen >= count {
            return;
        }
    }
}

/// The server's programs that this run tests against.
pub(crate) fn binaries() -> Binaries {
    match std::env::var("OBSERVER_TEST_POSTGRES").as_deref() {
        Err(_) | Ok("" | "18") => Binaries::Download,
        Ok("15") => Binaries::Installed("/usr/lib/postgresql/15/bin".into()),
        Ok(folder) => Binaries::Installed(folder.into()),
    }
}

/// A server of the test's own, with a migrated database.
pub(crate) async fn own_server() -> (PrivateServer, PgPool) {
    let server = PrivateServer::start(&binaries()).await.unwrap();
    let pool = PgPool::connect(&server.url("postgres")).await.unwrap();
    migrate(&pool).await.unwrap();
    (server, pool)
}

/// The server that all tests share.
pub(crate) async fn server() -> &'static PrivateServer {
    SERVER
        .get_or_init(|| async {
            let server = PrivateServer::start(&binaries()).await.unwrap();
            let mut admin = PgConnection::connect(&server.url("postgres"))
                .await
                .unwrap();
            admin
                .execute(AssertSqlSafe(format!("create database {TEMPLATE}")))
                .await
                .unwrap();
            let pool = PgPool::connect(&server.url(TEMPLATE)).await.unwrap();
            migrate(&pool).await.unwrap();
            pool.close().await;
            server
        })
        .await
}

/// A database with the schema `observer`.
pub(crate) async fn database() -> TestDb {
    create(TEMPLATE).await
}

/// A database with nothing in it.
pub(crate) async fn empty_database() -> TestDb {
    create("template0").await
}

async fn create(template: &str) -> TestDb {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let server = server().await;
    let name = format!("test_{}", NUMBER.fetch_add(1, Ordering::Relaxed));
    let admin = server.url("postgres");
    let mut connection = PgConnection::connect(&admin).await.unwrap();
    connection
        .execute(AssertSqlSafe(format!(
            "create database {name} template {template}"
        )))
        .await
        .unwrap();
    connection.close().await.unwrap();
    let url = server.url(&name);
    let pool = PgPoolOptions::new()
        .max_connections(10)
        .connect(&url)
        .await
        .unwrap();
    TestDb {
        url,
        pool,
        name,
        admin,
    }
}

impl TestDb {
    /// Runs statements that return nothing.
    pub(crate) async fn run(&self, sql: &str) {
        if let Err(error) = self.pool.execute(AssertSqlSafe(sql.to_owned())).await {
            panic!("{error}\nin: {sql}");
        }
    }

    /// Waits until the checkpoints of the one listener are past every event, with nothing beyond
    /// them that is done in part: before the first save there is nothing beyond them either.
    pub(crate) async fn all_is_behind(&self) {
        eventually("all events are behind the checkpoints", async || {
            let behind: bool = self
                .value(
                    "select bool_and(partly::text = '[]' and finished = '{}' and not exists (
                         select from observer.change_log l
                         where l.hash % c.shards = c.shard and l.id > greatest(c.from_ceiling, c.last_id)))
                     from observer.checkpoint c",
                )
                .await;
            behind.then_some(())
        })
        .await;
    }

    /// The message of the error that a statement ends in.
    pub(crate) async fn refusal(&self, sql: &str) -> String {
        match self.pool.execute(AssertSqlSafe(sql.to_owned())).await {
            Ok(_) => panic!("not refused: {sql}"),
            Err(error) => error.into_database_error().unwrap().message().to_owned(),
        }
    }

    /// The single value that a query returns.
    pub(crate) async fn value<T>(&self, sql: &str) -> T
    where
        T: for<'r> sqlx::Decode<'r, sqlx::Postgres> + sqlx::Type<sqlx::Postgres> + Send + Unpin,
    {
        match sqlx::query_scalar(AssertSqlSafe(sql.to_owned()))
            .fetch_one(&self.pool)
            .await
        {
            Ok(value) => value,
            Err(error) => panic!("{error}\nin: {sql}"),
        }
    }

    /// A connection beside the pool, for a transaction that is held open.
    pub(crate) async fn connect(&self) -> PgConnection {
        PgConnection::connect(&self.url).await.unwrap()
    }

    /// The URL of the same database as another user.
    pub(crate) fn url_as(&self, user: &str, password: &str) -> String {
        let mut url = url::Url::parse(&self.url).unwrap();
        url.set_username(user).unwrap();
        url.set_password(Some(password)).unwrap();
        url.into()
    }
}

impl Drop for TestDb {
    fn drop(&mut self) {
        let (admin, name) = (self.admin.clone(), self.name.clone());
        // A thread of its own, since the test's runtime may be ending.
        let dropped = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build();
            runtime.unwrap().block_on(async {
                let mut connection = PgConnection::connect(&admin).await.unwrap();
                let drop = format!("drop database if exists {name} with (force)");
                connection.execute(AssertSqlSafe(drop)).await.unwrap();
            });
        });
        // What is left goes with the server.
        let _ = dropped.join();
    }
}
