//! The command `track`, which prepares a source before a listener reads it.

use super::{Source, counters, sink};
use crate::support::counters::all_in_order;
use crate::support::fleet::SHORT_LEASE;
use crate::support::listener::{Config, Process};
use crate::support::program::{Ended, command};
use crate::support::writers::make_untracked_table;

const CREATE: &str =
    "create publication observer for table public.kv with (publish_via_partition_root = true);";
const IDENTITY: &str = "alter table public.kv replica identity full;";
const SLOT: &str =
    "select lsn::text from pg_catalog.pg_create_logical_replication_slot('shop', 'pgoutput');";

async fn track(config: &Config, more: &[&str]) -> Ended {
    let path = config.path();
    command(&[&["track", "-f", path.to_str().unwrap()], more].concat()).await
}

/// Has the source read by this role.
fn as_role(source: &Source, config: &Config, role: &str) {
    let url = source.read_url();
    let (_, at) = url.split_once('@').unwrap();
    config.change(&url, &format!("postgres://{role}:r@{at}"));
}

async fn made(source: &Source) -> (i64, i64) {
    let counts =
        "select (select count(*) from pg_publication), (select count(*) from pg_replication_slots)";
    sqlx::query_as(counts)
        .fetch_one(&source.read)
        .await
        .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_written_between_the_command_and_the_first_run_are_delivered() {
    let source = Source::apart().await;
    make_untracked_table(&source.read).await;
    let sink = sink().await;
    let config = counters(&source, SHORT_LEASE, &sink, "/");
    let said = track(&config, &["--dry-run"]).await.ok();
    assert_eq!(said.lines().collect::<Vec<_>>(), [CREATE, IDENTITY, SLOT]);
    assert_eq!(made(&source).await, (0, 0));
    let said = track(&config, &[]).await.ok();
    for line in [
        format!("publication observer: done: {CREATE}"),
        format!("replica identity of public.kv: done: {IDENTITY}"),
        format!("replication slot shop: done: {SLOT}"),
    ] {
        assert!(said.lines().any(|one| one == line), "{line} in {said}");
    }
    assert_eq!(made(&source).await, (1, 1));
    source.run("update kv set v = v + 1").await;
    let said = track(&config, &[]).await.ok();
    assert_eq!(said.matches(": there already\n").count(), 3, "{said}");
    let process = Process::run(&config);
    source.is_read().await;
    source.run("update kv set v = v + 1").await;
    source.logged(80).await;
    all_in_order(&source.read, &sink).await;
    // A slot that is read is left alone.
    let said = track(&config, &[]).await.ok();
    assert_eq!(said.matches(": there already\n").count(), 3, "{said}");
    process.stop().await;
    // It is not made anew behind the back of who reads it: changes would be missing.
    source.run("select pg_drop_replication_slot('shop')").await;
    let ended = track(&config, &[]).await;
    assert_eq!(ended.code, Some(1), "{}", ended.said());
    assert!(
        ended.out.contains("the slot shop is gone"),
        "{}",
        ended.said()
    );
    assert_eq!(made(&source).await, (1, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn user_without_rights_is_told_what_to_run() {
    let source = Source::apart().await;
    make_untracked_table(&source.read).await;
    source
        .run("create role reader login password 'r'; grant select on kv to reader")
        .await;
    let sink = sink().await;
    let config = counters(&source, SHORT_LEASE, &sink, "/");
    as_role(&source, &config, "reader");
    let mut told = Vec::new();
    for slot in [
        "replication slot shop: missing: it is made once the publication is complete",
        "replication slot shop: missing: the slot cannot be looked at",
    ] {
        let ended = track(&config, &[]).await;
        assert_eq!(ended.code, Some(1), "{}", ended.said());
        assert!(ended.out.contains(slot), "{}", ended.said());
        let statements = ended.out.lines().filter_map(|line| {
            let (_, sql) = line.split_once("have its owner run ")?;
            Some(sql.to_owned())
        });
        let statements: Vec<String> = statements.collect();
        for sql in &statements {
            source.run(sql).await;
        }
        told.extend(statements);
    }
    assert_eq!(
        told,
        [CREATE, IDENTITY, "alter role reader with replication;"]
    );
    let said = track(&config, &[]).await.ok();
    assert!(said.contains(&format!("shop: done: {SLOT}")), "{said}");
    source.run("update kv set v = v + 1").await;
    let process = Process::run(&config);
    all_in_order(&source.read, &sink).await;
    process.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn slot_and_publication_of_something_else_are_left_alone() {
    let source = Source::apart().await;
    make_untracked_table(&source.read).await;
    source
        .run("create table other (id int primary key); create publication observer for table other")
        .await;
    source
        .run("select pg_create_logical_replication_slot('shop', 'test_decoding')")
        .await;
    let sink = sink().await;
    let config = counters(&source, SHORT_LEASE, &sink, "/");
    let said = track(&config, &["--dry-run"]).await;
    for line in [
        "alter publication observer set (publish_via_partition_root = true);",
        "alter publication observer add table public.kv;",
        "-- replication slot shop: missing: the slot shop is of the plugin test_decoding",
    ] {
        assert!(said.out.contains(line), "{line} in {}", said.said());
    }
    assert_eq!(said.code, Some(1), "{}", said.said());
    let ended = track(&config, &[]).await;
    assert_eq!(ended.code, Some(1), "{}", ended.said());
    assert!(ended.err.contains("1 thing is missing"), "{}", ended.said());
    let tables: i64 = sqlx::query_scalar("select count(*) from pg_publication_tables")
        .fetch_one(&source.read)
        .await
        .unwrap();
    assert_eq!(tables, 2);
}
