//! Servers that take the place of the one that was read.

use testkit::servers::postgres::PrivateServer;

use super::{LOGICAL, Source, counters, is_read, sink};
use crate::support::counters::all_in_order;
use crate::support::fleet::SHORT_LEASE;
use crate::support::listener::Process;
use crate::support::writers::{Writers, make_untracked_table};
use crate::support::{binaries, eventually};

#[tokio::test(flavor = "multi_thread")]
async fn promoted_standby_goes_on_with_a_slot_that_was_synced() {
    // Slots are synced from 17 on.
    let log = PrivateServer::start(&binaries()).await.unwrap();
    let pool = testkit::database::pool(&log.url("postgres")).await;
    observer_listener::migrate::migrate(&pool).await.unwrap();
    let source = Source::apart().await;
    let version: i32 = source
        .value("select current_setting('server_version_num')::int")
        .await;
    if version < 170_000 {
        println!("this server syncs no slots");
        return;
    }
    make_untracked_table(&source.read).await;
    source
        .run("select pg_create_physical_replication_slot('standby', true)")
        .await;
    source
        .run("alter system set synchronized_standby_slots = 'standby'")
        .await;
    let logical = format!("{LOGICAL}\nsync_replication_slots = on");
    let standby = source
        .server
        .standby(&binaries(), "standby", &logical)
        .await
        .unwrap();
    let sink = sink().await;
    let config = counters(&source, SHORT_LEASE, &sink, "/");
    config.change(&source.log_url(), &log.url("postgres"));
    config.change("slot: shop\n", "slot: shop\n      failover: true\n");
    let process = Process::run(&config);
    let read = testkit::database::pool(&source.read_url()).await;
    let there = testkit::database::pool(&standby.url("postgres")).await;
    is_read(&read).await;
    eventually("the slot is on the standby", async || {
        // It becomes a lasting one once it has been read on, past what runs at the time.
        sqlx::query("update kv set v = v + 1")
            .execute(&read)
            .await
            .ok()?;
        sqlx::query("select pg_log_standby_snapshot()")
            .execute(&read)
            .await
            .ok()?;
        let synced: bool = sqlx::query_scalar(
            "select synced and not temporary from pg_replication_slots where slot_name = 'shop'",
        )
        .fetch_one(&there)
        .await
        .ok()?;
        synced.then_some(())
    })
    .await;
    let writers = Writers::start(&source.read_url(), 2, testkit::seed::seed());
    sink.arrived(sink.counts().requests + 200).await;
    source.server.crash().await.unwrap();
    sqlx::query("select pg_promote()")
        .execute(&there)
        .await
        .unwrap();
    process.stop().await;
    config.change(&source.read_url(), &standby.url("postgres"));
    let process = Process::run(&config);
    // What was prepared is there too, with its locks.
    let prepared: Vec<String> = sqlx::query_scalar("select gid from pg_prepared_xacts")
        .fetch_all(&there)
        .await
        .unwrap();
    for gid in prepared {
        let undo = sqlx::AssertSqlSafe(format!("rollback prepared '{gid}'"));
        sqlx::query(undo).execute(&there).await.unwrap();
    }
    sqlx::query("update kv set v = v + 1")
        .execute(&there)
        .await
        .unwrap();
    // What the new primary does not have was not delivered either, as its slot waited for the standby.
    all_in_order(&there, &sink).await;
    process.stop().await;
    source.server.resume().await.unwrap();
    writers.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn server_that_lost_what_was_read_is_not_read() {
    let log = PrivateServer::start(&binaries()).await.unwrap();
    let pool = testkit::database::pool(&log.url("postgres")).await;
    observer_listener::migrate::migrate(&pool).await.unwrap();
    let source = Source::apart().await;
    make_untracked_table(&source.read).await;
    source
        .run("select pg_create_physical_replication_slot('standby', true)")
        .await;
    let standby = source
        .server
        .standby(&binaries(), "standby", LOGICAL)
        .await
        .unwrap();
    let there = testkit::database::pool(&standby.url("postgres")).await;
    let sink = sink().await;
    let config = counters(&source, SHORT_LEASE, &sink, "/");
    config.change(&source.log_url(), &log.url("postgres"));
    let process = Process::run(&config);
    let read = testkit::database::pool(&source.read_url()).await;
    is_read(&read).await;
    // From here on the standby gets nothing.
    sqlx::query("select pg_promote()")
        .execute(&there)
        .await
        .unwrap();
    sqlx::query("update kv set v = v + 1")
        .execute(&read)
        .await
        .unwrap();
    sink.arrived(40).await;
    process.stop().await;
    sqlx::query("select pg_create_logical_replication_slot('shop', 'pgoutput')")
        .execute(&there)
        .await
        .unwrap();
    config.change(&source.read_url(), &standby.url("postgres"));
    let mut process = Process::run(&config);
    process
        .says("the server lost changes that were delivered")
        .await;
    process.stop().await;
}
