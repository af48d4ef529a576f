//! Backfills beside the write-ahead log.

use serde_json::json;
use testkit::seed::seed;

use super::rows::{TYPES, VALUES};
use super::{Source, counters, eventually, sink};
use crate::support::all_is_behind_in;
use crate::support::backfills::{
    ALL_OPERATIONS, SHARED_KEY, backfill, goes_on_after_kills, never_older,
    rows_of_one_key_are_all_told, start,
};
use crate::support::fleet::{LONG_LEASE, SHORT_LEASE};
use crate::support::listener::{Config, Process, observer};
use crate::support::writers::{Writers, make_untracked_table};

async fn read_rows(source: &Source) -> i64 {
    source
        .value("select count(*) from observer.change_log where operation = 'r'")
        .await
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_that_change_meanwhile_are_left_out() {
    for source in [Source::together().await, Source::apart().await] {
        let seed = seed();
        make_untracked_table(&source.read).await;
        let sink = sink().await;
        let config = counters(&source, LONG_LEASE, &sink, "/");
        config.change("[Insert, Update, Delete, Truncate, Custom]", ALL_OPERATIONS);
        let process = Process::run(&config);
        source.is_read().await;
        let writers = Writers::start(&source.read_url(), 6, seed);
        sink.arrived(50).await;
        for _ in 0..6 {
            let end = start(&config, &["--table", "public.kv"]).await;
            assert_eq!(end["state"], "Completed");
        }
        let left_out = 6 * 41 - read_rows(&source).await;
        assert!(left_out > 0, "rows were left out: {left_out}");
        writers.stop().await;
        let before = read_rows(&source).await;
        let end = start(&config, &["--table", "public.kv"]).await;
        assert_eq!(
            (&end["state"], &end["rowsRead"]),
            (&json!("Completed"), &json!(41))
        );
        assert_eq!(
            read_rows(&source).await - before,
            41,
            "without writers, none is left out"
        );
        all_is_behind_in(&source.log).await;
        eventually("all rows are told", async || {
            (never_older(&sink).len() == 41).then_some(())
        })
        .await;
        process.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_that_share_a_key_are_told_apart() {
    let (source, seed) = (Source::apart().await, seed());
    make_untracked_table(&source.read).await;
    source.run(SHARED_KEY).await;
    let sink = sink().await;
    let config = counters(&source, LONG_LEASE, &sink, "/");
    config.change("[Insert, Update, Delete, Truncate, Custom]", ALL_OPERATIONS);
    config.change("{table: public.kv}", "{table: public.kv, key: [lane]}");
    let process = Process::run(&config);
    source.is_read().await;
    let writers = Writers::start(&source.read_url(), 6, seed);
    rows_of_one_key_are_all_told(&source.log, (&config, &sink), writers).await;
    source.run("alter table kv replica identity default").await;
    let refused = backfill(&config, &["start", "--yes", "--table", "public.kv"]).await;
    let said = refused.said();
    assert!(
        said.contains("rows of public.kv share keys")
            && said.contains("alter table public.kv replica identity full"),
        "{said}"
    );
    process.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backfill_goes_on_after_kills_and_repeats_no_row() {
    let (source, seed) = (Source::apart().await, seed());
    make_untracked_table(&source.read).await;
    source
        .run("insert into kv select n, 0 from generate_series(2000, 5999) n")
        .await;
    let sink = sink().await;
    let config = counters(&source, SHORT_LEASE, &sink, "/");
    config.change("[Insert, Update, Delete, Truncate, Custom]", ALL_OPERATIONS);
    let process = Process::run(&config);
    source.is_read().await;
    let writers = Writers::start(&source.read_url(), 3, seed);
    let process =
        goes_on_after_kills(&source.log, (&config, &sink), process, (writers, seed)).await;
    process.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_are_the_same_as_those_that_the_log_sends() {
    let source = Source::apart().await;
    source.run(TYPES).await;
    source
        .run("create table other (id int primary key, at int, hidden text); create table unpublished (id int primary key)")
        .await;
    let sink = sink().await;
    let observers: String = ["every", "other", "unpublished"]
        .iter()
        .map(|name| {
            observer(name, &format!("public.{name}"), &sink.url("/"), "")
                .replace("[Insert, Update, Delete, Truncate, Custom]", ALL_OPERATIONS)
        })
        .collect();
    let spec = source.spec(
        "      tables: [{table: public.every, tenant: org, exclude: [t, nm]}, {table: public.other, key: [at, id]}]\n",
    );
    let config = Config::new(
        &source.log_url(),
        &format!("{LONG_LEASE}{spec}"),
        &observers,
    );
    let process = Process::run(&config);
    source.is_read().await;
    // The two rows, and not what becomes of them.
    let (rows, _) = VALUES.split_once("\n    );").unwrap();
    source.run(&format!("{rows})")).await;
    source
        .run("insert into other values (1, 2, 'x'), (2, null, 'y')")
        .await;
    source.logged(4).await;
    for table in ["public.every", "public.other"] {
        let end = start(&config, &["--table", table]).await;
        assert_eq!(end["rowsRead"], 2, "{end}");
    }
    let different: i64 = source
        .value(
            "select count(*) from (
                 select entity, key, tenant, hash, size, new::text from observer.change_log where operation = 'r'
                 except select entity, key, tenant, hash, size, new::text from observer.change_log where operation = 'i'
             ) different",
        )
        .await;
    assert_eq!(different, 0);
    assert_eq!(read_rows(&source).await, 4);
    let refused = backfill(
        &config,
        &["start", "--yes", "--table", "public.unpublished"],
    )
    .await;
    let said = refused.said();
    assert!(
        said.contains("is not in the publication observer")
            && said.contains("add table public.unpublished"),
        "{said}"
    );
    process.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn missing_rights_and_policies_of_rows_say_so() {
    let source = Source::apart().await;
    make_untracked_table(&source.read).await;
    source
        .run(
            "create role reader login replication password 'reader'; alter table kv replica identity full;
             create publication observer for table kv with (publish_via_partition_root = true)",
        )
        .await;
    let sink = sink().await;
    let config = counters(&source, LONG_LEASE, &sink, "/");
    config.change("[Insert, Update, Delete, Truncate, Custom]", ALL_OPERATIONS);
    let own = source.read_url();
    let (_, address) = own.split_once('@').unwrap();
    config.change(
        &format!("database: {{url: {{value: \"{own}"),
        &format!("database: {{url: {{value: \"postgres://reader:reader@{address}"),
    );
    let process = Process::run(&config);
    source.is_read().await;
    let fails = async |args: &[&str], text: &str| {
        let said = backfill(&config, args).await.said();
        assert!(said.contains(text), "{said}");
    };
    let start = ["start", "--yes", "--table", "public.kv"];
    fails(&start, "permission denied for table kv").await;
    source
        .run("grant select on kv to reader; alter table kv enable row level security")
        .await;
    fails(&start, "row-level security").await;
    source.run("alter role reader bypassrls").await;
    backfill(&config, &start).await.ok();
    assert_eq!(read_rows(&source).await, 40);
    process.stop().await;
}
