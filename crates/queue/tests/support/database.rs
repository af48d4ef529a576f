//! A migrated database of its own for each test.

use std::sync::LazyLock;

use sqlx::migrate::Migrator;
use sqlx::{Executor, PgPool};
use testkit::database::{TestDb, binaries, lazy_pool};
use testkit::servers::postgres::PrivateServer;

static MIGRATOR: LazyLock<Migrator> = LazyLock::new(|| {
    let mut migrator = sqlx::migrate!("../../migrations");
    migrator.dangerous_set_table_name("observer.migration");
    migrator.set_locking(false);
    migrator
});

async fn migrate(pool: &PgPool) {
    pool.execute("create schema observer").await.unwrap();
    let mut connection = pool.acquire().await.unwrap();
    MIGRATOR
        .run_direct(None, &mut *connection, false)
        .await
        .unwrap();
}

/// A migrated database on the server that all tests share.
pub(crate) async fn database() -> TestDb {
    TestDb::of_template("queue_migrated", async |pool| migrate(&pool).await).await
}

/// A server of the test's own, and the URL of a migrated database in it.
pub(crate) async fn own_server() -> (PrivateServer, String) {
    let server = PrivateServer::start(&binaries()).await.unwrap();
    let url = server.url("postgres");
    let pool = lazy_pool(&url, 1);
    migrate(&pool).await;
    pool.close().await;
    (server, url)
}
