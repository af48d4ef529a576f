//! A migrated database of its own for each test.

use sqlx::{AssertSqlSafe, Executor, PgPool};
use testkit::database::{TestDb, binaries, lazy_pool, schema_sql};
use testkit::servers::postgres::PrivateServer;

async fn migrate(pool: &PgPool) {
    pool.execute(AssertSqlSafe(schema_sql())).await.unwrap();
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
