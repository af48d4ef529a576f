//! Backfills that are started, and what receivers must be told of counters meanwhile (see `writers`).

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::Value;
use sqlx::PgPool;
use testkit::http_sink::Sink;

use super::listener::{Config, Process};
use super::program::command;
use super::told::told;
use super::writers::Writers;
use super::{all_is_behind_in, eventually, while_progressing};

/// Every operation on rows.
pub(crate) const ALL_OPERATIONS: &str = "[Insert, Update, Delete, Read]";

/// Runs a `backfill` command with the files of a listener.
pub(crate) async fn backfill(config: &Config, args: &[&str]) -> super::program::Ended {
    let path = config.path();
    let files = ["-f", path.to_str().unwrap()];
    command(&[&["backfill"], args, &files[..]].concat()).await
}

/// Starts a backfill and returns how it ended.
pub(crate) async fn start(config: &Config, args: &[&str]) -> Value {
    let args = [&["start", "--yes", "-o", "json"], args].concat();
    let printed = backfill(config, &args).await.ok();
    serde_json::from_str(&printed).unwrap()
}

/// Checks that no counter went back, by a change or by a backfill, and returns how often each was read. Repeated
/// deliveries count once.
pub(crate) fn never_older(sink: &Sink) -> BTreeMap<i64, usize> {
    let (mut values, mut known) = (BTreeMap::<i64, i64>::new(), BTreeSet::new());
    let mut reads = BTreeMap::new();
    for one in told(sink) {
        if !known.insert(one.id.clone()) {
            continue;
        }
        let row = &one.body["new"];
        let (counter, value) = (row["k"].as_i64().unwrap(), row["v"].as_i64().unwrap());
        let before = values.insert(counter, value);
        let by_backfill = one.body["operation"] == "Read";
        if by_backfill {
            *reads.entry(counter).or_default() += 1;
        }
        let least = before.map_or(value, |before| before + i64::from(!by_backfill));
        assert!(
            value >= least && (by_backfill || before.is_none() || value == least),
            "counter {counter} had {before:?} and then {value} by {}",
            one.body["operation"]
        );
    }
    reads
}

/// Starts a backfill of `kv`, which has rows with the keys 2000 to 5999 that nobody changes, and kills the process that
/// works on it again and again while writers are at work. Checks that each row is in the log once, all are told, and
/// none is older than what was told before. Returns the last process.
pub(crate) async fn goes_on_after_kills(
    log: &PgPool,
    (config, sink): (&Config, &Sink),
    mut process: Process,
    (writers, seed): (Writers, u64),
) -> Process {
    let mut random = StdRng::seed_from_u64(seed);
    let detached = ["start", "--yes", "--detach", "--table", "public.kv"];
    backfill(config, &[&detached[..], &["--rate", "4000"]].concat())
        .await
        .ok();
    let read_rows = async || -> i64 {
        sqlx::query_scalar("select count(*) from observer.change_log where operation = 'r'")
            .fetch_one(log)
            .await
            .unwrap()
    };
    for _ in 0..4 {
        let before = read_rows().await;
        let more = random.random_range(1..800);
        eventually("the backfill goes on", async || {
            (read_rows().await >= (before + more).min(4_000)).then_some(())
        })
        .await;
        tokio::time::sleep(Duration::from_millis(random.random_range(0..100))).await;
        process.kill().await;
        process = Process::run(config);
    }
    while_progressing("the backfill is completed", async || {
        let found = sqlx::query_as("select state, rows_read from observer.backfill");
        let found: Option<(String, i64)> = found.fetch_one(log).await.ok();
        match found {
            Some((state, _)) if state == "Completed" => Ok(()),
            found => Err(found.map_or(0, |(_, rows)| rows.unsigned_abs())),
        }
    })
    .await;
    writers.stop().await;
    all_is_behind_in(log).await;
    let twice: i64 = sqlx::query_scalar(
        "select count(*) from (select from observer.change_log where operation = 'r'
                               group by key having count(*) > 1) twice",
    )
    .fetch_one(log)
    .await
    .unwrap();
    assert_eq!(twice, 0, "each row is in the log once");
    eventually("all rows are told", async || {
        let reads = never_older(sink);
        (reads.keys().filter(|key| **key >= 2000).count() == 4_000).then_some(())
    })
    .await;
    process
}

/// Gives all rows of `kv` one key, and adds rows that nobody changes.
pub(crate) const SHARED_KEY: &str = "
    alter table kv add column lane int not null default 0, add column note json default '\"\\u0000\"';
    insert into kv select n, 0 from generate_series(2000, 2999) n";

/// Backfills rows that share a key again and again while writers are at work. Checks that the rows that nobody changes
/// are told each time, and no row older than before.
pub(crate) async fn rows_of_one_key_are_all_told(
    log: &PgPool,
    (config, sink): (&Config, &Sink),
    writers: Writers,
) {
    const TIMES: usize = 4;
    for _ in 0..TIMES {
        let end = start(config, &["--table", "public.kv"]).await;
        assert_eq!(end["state"], "Completed");
    }
    writers.stop().await;
    all_is_behind_in(log).await;
    eventually("all rows that nobody changes are told", async || {
        let reads = never_older(sink);
        let still = reads.iter().filter(|(row, _)| **row >= 2000);
        (still.filter(|(_, times)| **times == TIMES).count() == 1000).then_some(())
    })
    .await;
}
