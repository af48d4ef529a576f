//! Faults of the slot: what is said, what is lost, and what is not.

use super::{Source, counters, sink};
use crate::support::counters::all_in_order;
use crate::support::fleet::SHORT_LEASE;
use crate::support::listener::Process;
use crate::support::writers::make_untracked_table;

async fn change_all(source: &Source) {
    source.run("update kv set v = v + 1").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn slot_that_was_dropped_stops_the_source_and_says_so() {
    let source = Source::apart().await;
    make_untracked_table(&source.read).await;
    let sink = sink().await;
    let config = counters(&source, SHORT_LEASE, &sink, "/");
    let process = Process::run(&config);
    source.is_read().await;
    change_all(&source).await;
    source.logged(40).await;
    process.stop().await;
    source.run("select pg_drop_replication_slot('shop')").await;
    change_all(&source).await;
    let mut process = Process::run(&config);
    process.says("the slot shop is gone").await;
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
async fn slot_made_anew_by_hand_is_no_slot_to_go_on_with() {
    let source = Source::apart().await;
    make_untracked_table(&source.read).await;
    let sink = sink().await;
    let config = counters(&source, SHORT_LEASE, &sink, "/");
    let process = Process::run(&config);
    source.is_read().await;
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
    let source = Source::apart().await;
    make_untracked_table(&source.read).await;
    source.run("create table other (v text)").await;
    let sink = sink().await;
    let config = counters(&source, SHORT_LEASE, &sink, "/");
    let process = Process::run(&config);
    source.is_read().await;
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
