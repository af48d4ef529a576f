//! One Postgres for the whole run, and a migrated database of its own for each test.

use std::sync::LazyLock;
use std::sync::atomic::{AtomicU32, Ordering};

use servers::binaries::Binaries;
use servers::postgres::PrivateServer;
use sqlx::migrate::Migrator;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection, PgPool};
use tokio::sync::OnceCell;

/// Made once, migrated, and then only copied.
const TEMPLATE: &str = "template_migrated";

/// Connections of one pool.
const CONNECTIONS: u32 = 8;

static SERVER: OnceCell<PrivateServer> = OnceCell::const_new();

static MIGRATOR: LazyLock<Migrator> = LazyLock::new(|| {
    let mut migrator = sqlx::migrate!("../migrations");
    migrator.dangerous_set_table_name("observer.migration");
    migrator.set_locking(false);
    migrator
});

fn binaries() -> Binaries {
    match std::env::var("OBSERVER_TEST_POSTGRES").as_deref() {
        Err(_) | Ok("" | "18") => Binaries::Download,
        Ok("15") => Binaries::Installed("/usr/lib/postgresql/15/bin".into()),
        Ok(folder) => Binaries::Installed(folder.into()),
    }
}

async fn migrate(pool: &PgPool) {
    pool.execute("create schema observer").await.unwrap();
    let mut connection = pool.acquire().await.unwrap();
    MIGRATOR
        .run_direct(None, &mut *connection, false)
        .await
        .unwrap();
}

async fn shared() -> &'static PrivateServer {
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
            migrate(&pool).await;
            pool.close().await;
            server
        })
        .await
}

/// Connections to a database, made when they are needed.
pub(crate) fn pool(url: &str, connections: u32) -> PgPool {
    let options: PgConnectOptions = url.parse().unwrap();
    PgPoolOptions::new()
        .max_connections(connections)
        .connect_lazy_with(options)
}

/// URL of a migrated database of the test's own, on the server that all tests share.
pub(crate) async fn database() -> String {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let server = shared().await;
    let name = format!("test_{}", NUMBER.fetch_add(1, Ordering::Relaxed));
    let mut connection = PgConnection::connect(&server.url("postgres"))
        .await
        .unwrap();
    connection
        .execute(AssertSqlSafe(format!(
            "create database {name} template {TEMPLATE}"
        )))
        .await
        .unwrap();
    connection.close().await.unwrap();
    server.url(&name)
}

/// Connections to a migrated database of the test's own.
pub(crate) async fn own_pool() -> PgPool {
    pool(&database().await, CONNECTIONS)
}

/// A server of the test's own, and the URL of a migrated database in it.
pub(crate) async fn own_server() -> (PrivateServer, String) {
    let server = PrivateServer::start(&binaries()).await.unwrap();
    let url = server.url("postgres");
    let pool = PgPool::connect(&url).await.unwrap();
    migrate(&pool).await;
    pool.close().await;
    (server, url)
}
