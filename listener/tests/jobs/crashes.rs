//! A process that dies between any two steps: each job is there once, none is missing, and order
//! within a key holds.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::StreamExt;
use queue::failpoint::ALL;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::Value;
use testkit::http_sink::{Behaviour, Received, Sink};

use super::{in_redis, observer, orders, redis};
use crate::support::fleet::LONG_LEASE;
use crate::support::listener::{Config, Process};
use crate::support::program::command;
use crate::support::{TestDb, amounts_to, eventually, while_progressing};
use testkit::seed::seed;
use testkit::wait::Patience;

const ROWS: usize = 12;

/// Most changes of each row before the process must have died, and the time between two.
const MOST_ROUNDS: usize = 100;
const PACE: Duration = Duration::from_millis(100);

/// Failpoints that are tried at the same time.
const AT_ONCE: usize = 3;

/// What a listener says of its queue: finished jobs are kept, to be counted. Whoever died on the
/// same machine is known to be gone, so no short Lease is needed, which a busy machine would lose.
fn kept(spec: &str) -> String {
    assert!(spec.contains("workerLeaseDuration: 5s"));
    spec.replace(
        "workerLeaseDuration: 5s",
        "workerLeaseDuration: 5s, completedJobRetention: 1h",
    ) + LONG_LEASE
}

/// One that fails now and then, and one that is refused as a job. (Failures of another kind would
/// have its receiver left alone.)
fn observers(sink: &Sink) -> String {
    let often = "retry: {attempts: 100, initialBackoff: 20ms, maxBackoff: 50ms}";
    observer("flaky", &sink.url("/flaky"), often)
        + &observer("hopeless", &sink.url("/hopeless"), "mode: Queued")
}

/// How many jobs there are of each delivery: those that are over, unless one is not.
async fn finished(config: &Config) -> Option<BTreeMap<(String, String), usize>> {
    let path = config.path();
    let path = path.to_str().unwrap();
    let args = ["jobs", "list", "--limit", "10000", "-o", "json", "-f", path];
    let listed: Vec<Value> = serde_json::from_str(&command(&args).await.ok()).unwrap();
    let mut counts = BTreeMap::new();
    for job in listed {
        let text = |field: &str| job[field].as_str().unwrap().to_owned();
        if text("state") != "completed" {
            return None;
        }
        *counts
            .entry((text("observer"), text("eventId")))
            .or_default() += 1;
    }
    Some(counts)
}

/// Each order's totals were accepted one after the other; some perhaps again.
fn in_order_but_for_repeats(received: &[Received], last: usize) {
    let last = i64::try_from(last).unwrap();
    let mut next: BTreeMap<i64, i64> = BTreeMap::new();
    for one in received.iter().filter(|one| one.status == Some(200)) {
        let body: Value = serde_json::from_slice(&one.body).unwrap();
        let number = |field: &str| body["new"][field].as_i64().unwrap();
        let due = next.entry(number("id")).or_default();
        assert!(
            number("total") <= *due,
            "order {}: {} is due",
            number("id"),
            due
        );
        *due = (*due).max(number("total") + 1);
    }
    assert_eq!(next.len(), ROWS, "orders that were told of");
    assert!(
        next.values().all(|due| *due == last + 1),
        "all arrived, but these are due: {next:?}"
    );
}

async fn dead_letters(db: &TestDb) -> usize {
    let count: i64 = db.value("select count(*) from observer.dead_letter").await;
    usize::try_from(count).unwrap()
}

/// Dies at a failpoint, and is begun again.
async fn die_at(failpoint: &str, times: u32, spec: &str, seed: u64) -> TestDb {
    let db = orders().await;
    let sink = Sink::start(Behaviour::Ok).await.unwrap();
    let failing = Behaviour::FailShare {
        per_mille: 300,
        seed,
        status: 503,
    };
    sink.behave_at("/flaky", failing);
    sink.behave_at("/hopeless", Behaviour::Status(400));
    let config = Config::new(&db.url, &kept(spec), &observers(&sink));
    let mut process = Process::run_to(&config, failpoint, times);
    db.run(&format!(
        "insert into orders select generate_series(1, {ROWS})"
    ))
    .await;
    let (mut last, mut patience) = (0, Patience::default());
    let mut progress = (0, 0);
    while !process.has_ended() {
        let now = (sink.counts().requests, process.said().len());
        if now != std::mem::replace(&mut progress, now) {
            patience.renew();
        }
        assert!(
            patience.lasts(),
            "it should come to {failpoint}: {:?}, {}",
            sink.counts(),
            process.said()
        );
        if last < MOST_ROUNDS {
            db.run("update orders set total = total + 1").await;
            last += 1;
        }
        tokio::time::sleep(PACE).await;
    }
    let status = process.ends().await;
    assert!(
        status.code().is_none(),
        "dies of a signal at {failpoint}: {}",
        process.said()
    );
    let process = Process::run(&config);
    let changes = ROWS * (1 + last);
    amounts_to(
        &format!("dead letters after {failpoint}"),
        changes as u64,
        async || dead_letters(&db).await as u64,
    )
    .await;
    amounts_to(
        &format!("accepted changes after {failpoint}"),
        changes as u64,
        async || accepted(&sink) as u64,
    )
    .await;
    crate::support::all_is_behind(&db).await;
    let jobs = eventually(&format!("no job is left after {failpoint}"), async || {
        finished(&config).await
    })
    .await;
    process.stop().await;
    in_order_but_for_repeats(&of(&sink, "/flaky"), last);
    let twice: Vec<_> = jobs.iter().filter(|(_, count)| **count > 1).collect();
    assert!(twice.is_empty(), "added twice: {twice:?}");
    let hopeless = jobs.keys().filter(|(of, _)| of.ends_with("/hopeless"));
    assert_eq!(hopeless.count(), changes, "each was a job once");
    assert_eq!(dead_letters(&db).await, changes);
    db.pool.close().await;
    db
}

fn of(sink: &Sink, path: &str) -> Vec<Received> {
    let received = sink.received().into_iter();
    received.filter(|one| one.line.ends_with(path)).collect()
}

/// Changes that the flaky receiver has accepted.
fn accepted(sink: &Sink) -> usize {
    let all = of(sink, "/flaky").into_iter();
    let ids = all
        .filter(|one| one.status == Some(200))
        .map(|one| one.webhook_id);
    ids.collect::<std::collections::BTreeSet<_>>().len()
}

async fn die_everywhere(
    except: &str,
    spec: impl AsyncFn() -> (String, Option<testkit::servers::redis::PrivateRedis>),
) {
    let seed = seed();
    let mut random = StdRng::seed_from_u64(seed);
    let only = std::env::var("OBSERVER_TEST_FAILPOINT").ok();
    let points = ALL
        .iter()
        .filter(|name| !name.starts_with(except))
        .filter(|name| only.as_ref().is_none_or(|only| only == *name));
    let tried: Vec<_> = points
        .map(|name| (*name, random.random_range(1..=3), random.random()))
        .collect();
    let trying = tried.into_iter().map(async |(name, times, seed)| {
        let (spec, redis) = spec().await;
        let db = die_at(name, times, &spec, seed).await;
        println!("{name} ({times}): each job once, nothing lost, in order");
        (db, redis)
    });
    // Dropping a database blocks, so none is dropped while others are in use.
    let tried: Vec<_> = futures::stream::iter(trying)
        .buffer_unordered(AT_ONCE)
        .collect()
        .await;
    drop(tried);
}

#[tokio::test(flavor = "multi_thread")]
async fn dying_between_any_two_steps_adds_each_job_once() {
    die_everywhere("redis-", async || (super::SHORT.to_owned(), None)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn dying_between_any_two_steps_adds_each_job_once_in_redis() {
    die_everywhere("postgres-", async || {
        let redis = redis().await;
        (in_redis(&redis), Some(redis))
    })
    .await;
}

/// A redriven dead letter becomes a job or stays what it is, wherever the process dies.
async fn die_in_redrive(failpoint: &str, spec: &str) -> TestDb {
    let db = orders().await;
    let sink = Sink::start(Behaviour::Status(503)).await.unwrap();
    let once = "timeout: 5m\n      retry: {attempts: 1, initialBackoff: 20ms, maxBackoff: 50ms}";
    let config = Config::new(
        &db.url,
        &kept(spec),
        &observer("once", &sink.url("/once"), once),
    );
    let process = Process::run(&config);
    db.run(&format!(
        "insert into orders select generate_series(1, {ROWS})"
    ))
    .await;
    println!("{failpoint}: {spec}");
    let all = async |count: usize| {
        let what = format!("{count} dead letters, {failpoint}");
        while_progressing(&what, async || match dead_letters(&db).await {
            letters if letters == count => Ok(()),
            letters => Err(letters as u64),
        })
        .await;
    };
    all(ROWS).await;
    process.stop().await;
    let path = config.path();
    let args = [
        "dead-letters",
        "redrive",
        "--all",
        "--yes",
        "-f",
        path.to_str().unwrap(),
    ];
    command(&args).await.ok();
    let mut process = Process::run_to(&config, failpoint, 1);
    assert!(process.ends().await.code().is_none(), "{}", process.said());
    let process = Process::run(&config);
    eventually("nobody waits for a redrive", async || {
        let asked: i64 = db
            .value("select count(redrive_requested_at) from observer.dead_letter")
            .await;
        (asked == 0 && finished(&config).await.is_some()).then_some(())
    })
    .await;
    all(ROWS).await;
    process.stop().await;
    // From here on nobody dies, and no worker is to be taken for dead.
    config.change("workerLeaseDuration: 5s", "workerLeaseDuration: 10m");
    let process = Process::run(&config);
    sink.behave(Behaviour::Ok);
    command(&args).await.ok();
    all(0).await;
    amounts_to("deliveries", ROWS as u64, async || sink.counts().succeeded).await;
    process.stop().await;
    assert_eq!(sink.counts().succeeded, ROWS as u64, "each once");
    db.pool.close().await;
    db
}

#[tokio::test(flavor = "multi_thread")]
async fn dying_while_dead_letters_become_jobs_loses_none() {
    let mut done = Vec::new();
    for failpoint in ["save-settled", "save-jobs-added", "save-committed"] {
        done.push((die_in_redrive(failpoint, super::SHORT).await, None));
        let redis = redis().await;
        let db = die_in_redrive(failpoint, &in_redis(&redis)).await;
        done.push((db, Some(redis)));
    }
}
