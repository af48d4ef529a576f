//! What the tests of the whole program share.

pub(crate) mod backfills;
pub(crate) mod collector;
pub(crate) mod counters;
pub(crate) mod fleet;
pub(crate) mod follower;
pub(crate) mod listener;
pub(crate) mod memory;
pub(crate) mod probe;
pub(crate) mod program;
pub(crate) mod rows;
pub(crate) mod tls;
pub(crate) mod told;
pub(crate) mod writers;

use observer_listener::migrate::migrate;
use sqlx::PgPool;
use testkit::servers::postgres::PrivateServer;

pub(crate) use testkit::database::{TestDb, binaries};
pub(crate) use testkit::wait::{
    amounts_to, comes, eventually, eventually_or, while_progressing, while_progressing_or,
};

/// A server of the test's own, with a migrated database.
pub(crate) async fn own_server() -> (PrivateServer, PgPool) {
    let server = PrivateServer::start(&binaries()).await.unwrap();
    let pool = testkit::database::pool(&server.url("postgres")).await;
    migrate(&pool).await.unwrap();
    (server, pool)
}

/// A database with the schema `observer`.
pub(crate) async fn database() -> TestDb {
    TestDb::of_template("listener_migrated", async |pool| {
        migrate(&pool).await.unwrap();
    })
    .await
}

/// The URL of a login for statements in the listener's own database, with all rights on these tables,
/// in a listener's rules for egress.
pub(crate) async fn own_database(db: &TestDb, tables: &str) -> String {
    let url = statement_login(db, tables).await;
    format!("egress: {{allow: [127.0.0.0/8], ownDatabase: {{url: {{value: \"{url}\"}}}}}}")
}

/// The URL of such a login.
pub(crate) async fn statement_login(db: &TestDb, tables: &str) -> String {
    let role = db.role("statements", "login password 's'").await;
    db.run(&format!(
        "grant usage on schema observer to {role}; grant execute on function observer.claim_delivery to {role};
         grant all on {tables} to {role}; grant usage on all sequences in schema public to {role}"
    ))
    .await;
    db.url_as(&role, "s")
}

/// A database with nothing in it.
pub(crate) async fn empty_database() -> TestDb {
    TestDb::empty().await
}

/// Waits until the checkpoints of the one listener are past every event, with nothing beyond
/// them that is done in part: before the first save there is nothing beyond them either.
pub(crate) async fn all_is_behind(db: &TestDb) {
    all_is_behind_in(&db.pool).await;
}

/// The same, in the database of a change log.
pub(crate) async fn all_is_behind_in(log: &PgPool) {
    while_progressing("all events are behind the checkpoints", async || {
        // One for each shard with something that is done in part, and one for each event beyond.
        let beyond: Option<i64> = sqlx::query_scalar(
            "select sum((partially_completed::text <> '[]' or completed_ids <> '{}')::int + (
                     select count(*) from observer.change_log l
                     where l.hash % c.shards = c.shard and l.id > greatest(c.base_high_id, c.last_id)))::bigint
                 from observer.checkpoint c",
        )
        .fetch_one(log)
        .await
        .unwrap();
        match beyond {
            Some(0) => Ok(()),
            beyond => Err(beyond.unwrap_or_default().unsigned_abs()),
        }
    })
    .await;
}
