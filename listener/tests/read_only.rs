//! Databases that take no writes for a moment.

use testkit::http_sink::{Behaviour, Sink};
use testkit::servers::postgres::PrivateServer;

use crate::support::fleet::LONG_LEASE;
use crate::support::listener::{Config, Process};
use crate::support::probe::{free_address, ready, ready_with};
use crate::support::program::command;
use crate::support::rows::{all_told, change_rows, make_rows, rows_to};
use crate::support::{database, own_server};

#[tokio::test(flavor = "multi_thread")]
async fn read_only_moment_heals_without_a_restart() {
    let db = database().await;
    make_rows(&db.pool).await;
    let sink = Sink::start(Behaviour::Ok).await.unwrap();
    let config = Config::new(&db.url, LONG_LEASE, &rows_to(&sink, "/hook"));
    let address = free_address();
    let process = Process::start(&["run", "--listen", &address, "-f"], &config.path());
    ready(&address, 200).await;
    change_rows(&db.pool, 1).await;
    all_told(&sink, 1).await;
    let name: String = db.value("select current_database()").await;
    // Those who connect now cannot write for as long as they are connected.
    db.run(&format!(
        "alter database {name} set default_transaction_read_only = on"
    ))
    .await;
    let end = "select count(pg_terminate_backend(pid)) from pg_stat_activity
               where datname = current_database() and pid <> pg_backend_pid()";
    db.value::<i64>(end).await;
    ready_with(
        &address,
        503,
        "default_transaction_read_only is on, by database",
    )
    .await;
    db.run(&format!(
        "begin read write; alter database {name} reset default_transaction_read_only; commit"
    ))
    .await;
    let fresh = testkit::database::pool(&db.url).await;
    change_rows(&fresh, 1).await;
    all_told(&sink, 2).await;
    ready(&address, 200).await;
    process.stop().await;
}

async fn set_read_only(server: &PrivateServer, to: &str) {
    let pool = testkit::database::pool(&server.url("postgres")).await;
    for statement in [
        format!("alter system set default_transaction_read_only = {to}"),
        "select pg_reload_conf()".to_owned(),
    ] {
        sqlx::query(sqlx::AssertSqlSafe(statement))
            .execute(&pool)
            .await
            .unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn standby_is_reported_and_used_once_promoted() {
    let (server, pool) = own_server().await;
    make_rows(&pool).await;
    let sink = Sink::start(Behaviour::Ok).await.unwrap();
    let url = server.url("postgres");
    let config = Config::new(&url, LONG_LEASE, &rows_to(&sink, "/hook"));
    let address = free_address();
    let process = Process::start(&["run", "--listen", &address, "-f"], &config.path());
    ready(&address, 200).await;
    change_rows(&pool, 1).await;
    all_told(&sink, 1).await;

    set_read_only(&server, "on").await;
    ready_with(&address, 503, "default_transaction_read_only is on").await;
    set_read_only(&server, "off").await;
    ready(&address, 200).await;
    change_rows(&pool, 1).await;
    all_told(&sink, 2).await;

    pool.close().await;
    server.stop().await.unwrap();
    server.resume_as_standby().await.unwrap();
    ready_with(&address, 503, "the server is a standby").await;
    // Whoever only looks may.
    let path = config.path();
    let shown = command(&["status", "-f", path.to_str().unwrap()])
        .await
        .ok();
    assert!(shown.contains("default/test"), "{shown}");
    let pool = testkit::database::pool(&url).await;
    sqlx::query("select pg_promote()")
        .execute(&pool)
        .await
        .unwrap();
    change_rows(&pool, 1).await;
    all_told(&sink, 3).await;
    ready(&address, 200).await;
    process.stop().await;
}
