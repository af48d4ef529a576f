//! Faults of the slot: what is said, what is lost, and what is not.

use super::{Source, counters, reading, sink};
use crate::support::counters::all_in_order;
use crate::support::fleet::SHORT_LEASE;
use crate::support::listener::Process;
use crate::support::probe::{free_address, get};
use crate::support::writers::make_untracked_table;

async fn change_all(source: &Source) {
    source.run("update kv set v = v + 1").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn slot_that_was_dropped_stops_the_source_and_says_so() {
    let (source, _sink, config, process) = reading(Source::apart().await).await;
    change_all(&source).await;
    source.logged(40).await;
    process.stop().await;
    source.run("select pg_drop_replication_slot('shop')").await;
    change_all(&source).await;
    let address = free_address();
    let mut process = Process::start(&["run", "--listen", &address, "-f"], &config.path());
    process.says("the slot shop is gone").await;
    let told: serde_json::Value = super::eventually("the operator is told", async || {
        let (_, body) = get(&address, "/status").await?;
        let report: serde_json::Value = serde_json::from_str(&body).ok()?;
        report.get("source").cloned()
    })
    .await;
    assert_eq!(told["reason"], "SlotLost");
    assert!(
        told["message"]
            .as_str()
            .unwrap()
            .contains("onSlotLost: Recreate"),
        "{told}"
    );
    let slots: i64 = source
        .value("select count(*) from pg_replication_slots")
        .await;
    assert_eq!(slots, 0, "none is made in its place");
    process.stop().await;
    config.change("slot: shop\n", "slot: shop\n      onSlotLost: Recreate\n");
    let process = Process::run(&config);
    source.is_read().await;
    change_all(&source).await;
    source.logged(80).await;
    let gaps: i64 = source
        .value("select count(*) from observer.source_gap where reason = 'is gone'")
        .await;
    assert_eq!(gaps, 1);
    let told: i64 = source
        .value("select count(*) from observer.change_log where new ->> 'v' = '2'")
        .await;
    assert_eq!(told, 0, "what was lost is lost, and the rest is there");
    process.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn slot_that_was_recreated_by_hand_is_rejected() {
    let (source, _sink, config, process) = reading(Source::apart().await).await;
    change_all(&source).await;
    source.logged(40).await;
    process.stop().await;
    source.run("select pg_drop_replication_slot('shop')").await;
    change_all(&source).await;
    source
        .run("select pg_create_logical_replication_slot('shop', 'pgoutput')")
        .await;
    let mut process = Process::run(&config);
    process.says("ahead of what was read").await;
    process.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn idle_source_does_not_hold_the_log_back() {
    let (source, sink, _config, process) = reading(Source::apart().await).await;
    source.run("create table other (v text)").await;
    source
        .run("insert into other select repeat('x', 100) from generate_series(1, 50000)")
        .await;
    let at: String = source.value("select pg_current_wal_lsn()::text").await;
    super::eventually("the slot is past what nobody reads", async || {
        let past: bool = source
            .value(&format!(
                "select confirmed_flush_lsn >= '{at}' from pg_replication_slots where slot_name = 'shop'"
            ))
            .await;
        past.then_some(())
    })
    .await;
    change_all(&source).await;
    all_in_order(&source.read, &sink).await;
    process.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn table_that_triggers_track_too_is_refused() {
    let source = Source::together().await;
    make_untracked_table(&source.read).await;
    source.run("select observer.track('kv')").await;
    let sink = sink().await;
    let config = counters(&source, SHORT_LEASE, &sink, "/");
    let mut process = Process::run(&config);
    process.says("observer.untrack('public.kv')").await;
    source.run("select observer.untrack('kv')").await;
    source.is_read().await;
    change_all(&source).await;
    all_in_order(&source.read, &sink).await;
    process.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn user_without_rights_is_told_what_to_run() {
    let source = Source::apart().await;
    make_untracked_table(&source.read).await;
    source
        .run("create role reader login replication password 'r'; grant select on kv to reader")
        .await;
    let sink = sink().await;
    let config = counters(&source, SHORT_LEASE, &sink, "/");
    let url = source.read_url();
    let (_, at) = url.split_once('@').unwrap();
    config.change(&url, &format!("postgres://reader:r@{at}"));
    let mut process = Process::run(&config);
    process
        .says("create publication observer for table public.kv")
        .await;
    source
        .run(
            "create publication observer for table kv with (publish_via_partition_root = true);
             alter table kv replica identity full",
        )
        .await;
    source.is_read().await;
    change_all(&source).await;
    all_in_order(&source.read, &sink).await;
    process.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn slot_that_is_invalidated_while_its_reader_is_away_stops_the_source() {
    let (source, _sink, config, process) = reading(Source::apart().await).await;
    source.run("create table other (v text)").await;
    change_all(&source).await;
    source.logged(40).await;
    process.stop().await;
    source
        .run("alter system set max_slot_wal_keep_size = '1MB'")
        .await;
    source.run("select pg_reload_conf()").await;
    for _ in 0..4 {
        source
            .run("insert into other select repeat('x', 1000) from generate_series(1, 30000)")
            .await;
        source.run("select pg_switch_wal()").await;
        source.run("checkpoint").await;
    }
    let mut process = Process::run(&config);
    process.says("is invalidated (").await;
    process.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn slot_that_is_dropped_while_it_is_read_stops_the_source() {
    let (source, _sink, _config, mut process) = reading(Source::apart().await).await;
    change_all(&source).await;
    source.logged(40).await;
    super::eventually("the slot is dropped between two sessions", async || {
        let end = "select pg_terminate_backend(active_pid) from pg_replication_slots";
        let _ended = sqlx::query(end).execute(&source.read).await;
        let drop = "select pg_drop_replication_slot('shop')";
        sqlx::query(drop).execute(&source.read).await.ok()
    })
    .await;
    process.says("the slot shop is gone").await;
    process.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn log_that_takes_no_rows_for_long_does_not_end_the_session() {
    let source = Source::apart().await;
    make_untracked_table(&source.read).await;
    source
        .run("alter system set wal_sender_timeout = '8s'")
        .await;
    source.run("select pg_reload_conf()").await;
    let sink = sink().await;
    let config = counters(
        &source,
        "  lease: {duration: 60s, renewDeadline: 50s, retryPeriod: 400ms}\n",
        &sink,
        "/",
    );
    let process = Process::run(&config);
    source.is_read().await;
    let pid = "select active_pid from pg_replication_slots where slot_name = 'shop'";
    let before: i32 = sqlx::query_scalar(pid)
        .fetch_one(&source.read)
        .await
        .unwrap();
    let mut blocks = source.log.begin().await.unwrap();
    sqlx::query("lock table observer.change_log in access exclusive mode")
        .execute(&mut *blocks)
        .await
        .unwrap();
    source
        .run("update kv set v = v + 1 from generate_series(1, 1)")
        .await;
    let begun = tokio::time::Instant::now();
    super::eventually("the timeout has passed several times", async || {
        (begun.elapsed() > std::time::Duration::from_secs(20)).then_some(())
    })
    .await;
    blocks.rollback().await.unwrap();
    all_in_order(&source.read, &sink).await;
    let after: i32 = sqlx::query_scalar(pid)
        .fetch_one(&source.read)
        .await
        .unwrap();
    assert_eq!(before, after, "it is the same session");
    process.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_wait_while_the_slot_is_told_nothing_of_them() {
    let (source, sink, config, process) = reading(Source::apart().await).await;
    let mut blocks = source.log.begin().await.unwrap();
    sqlx::query("lock table observer.change_log in access exclusive mode")
        .execute(&mut *blocks)
        .await
        .unwrap();
    change_all(&source).await;
    let at: String = source.value("select pg_current_wal_lsn()::text").await;
    source
        .run("create table other (v text); insert into other values ('x')")
        .await;
    // Keepalives of the server and reports to it pass meanwhile.
    tokio::time::sleep(std::time::Duration::from_secs(3)).await;
    let told: bool = sqlx::query_scalar(sqlx::AssertSqlSafe(format!(
        "select confirmed_flush_lsn >= '{at}' from pg_replication_slots where slot_name = 'shop'"
    )))
    .fetch_one(&source.read)
    .await
    .unwrap();
    assert!(!told, "what is not saved is not reported");
    process.kill().await;
    blocks.rollback().await.unwrap();
    let process = Process::run(&config);
    all_in_order(&source.read, &sink).await;
    process.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn publication_that_was_dropped_and_made_again_is_a_gap() {
    let (source, _sink, config, process) = reading(Source::apart().await).await;
    change_all(&source).await;
    source.logged(40).await;
    process.stop().await;
    source.run("drop publication observer").await;
    change_all(&source).await;
    let mut process = Process::run(&config);
    // It is made again, and the server looks it up as it was when the change was written.
    process
        .says("is from before its publication was made again")
        .await;
    process.stop().await;
    config.change("slot: shop\n", "slot: shop\n      onSlotLost: Recreate\n");
    let process = Process::run(&config);
    super::eventually("the gap is on record", async || {
        let gaps: i64 = source
            .value("select count(*) from observer.source_gap")
            .await;
        (gaps == 1).then_some(())
    })
    .await;
    source.is_read().await;
    change_all(&source).await;
    source.logged(80).await;
    process.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn publication_of_all_tables_does_not_read_the_change_log() {
    let source = Source::together().await;
    make_untracked_table(&source.read).await;
    source
        .run(
            "create publication observer for all tables with (publish_via_partition_root = true);
             alter table kv replica identity full",
        )
        .await;
    let sink = sink().await;
    let config = counters(&source, SHORT_LEASE, &sink, "/");
    let process = Process::run(&config);
    source.is_read().await;
    change_all(&source).await;
    all_in_order(&source.read, &sink).await;
    change_all(&source).await;
    all_in_order(&source.read, &sink).await;
    let others: i64 = source
        .value("select count(*) from observer.change_log where entity <> 'public.kv'")
        .await;
    assert_eq!(others, 0);
    process.stop().await;
}
