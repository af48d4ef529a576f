//! A key whose delivery failed waits behind it, all others flow, and it flows again afterwards.

use std::collections::BTreeMap;
use std::time::Instant;

use testkit::http_sink::{Behaviour, Received, Sink};

use super::{LONG, LONGER, in_redis, left, observer, orders, pending, redis};
use crate::support::fleet::LONG_LEASE;
use crate::support::listener::{Config, Process};
use crate::support::probe::{free_address, get};
use crate::support::{TestDb, amounts_to, eventually};

/// Jobs added so far, as the process tells.
async fn enqueued(address: &str) -> f64 {
    let (_, text) = get(address, "/metrics").await.unwrap();
    let lines = text.lines();
    let lines = lines.filter(|line| line.starts_with("observer_jobs_enqueued_total{"));
    lines
        .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
        .sum()
}

/// Checks that each order's totals were accepted one after the other, from 0 to `last`.
pub(super) fn in_order(received: &[Received], orders: usize, last: i64) {
    let mut next: BTreeMap<i64, i64> = BTreeMap::new();
    for one in received.iter().filter(|one| one.status == Some(200)) {
        let body: serde_json::Value = serde_json::from_slice(&one.body).unwrap();
        let (id, total) = (
            body["new"]["id"].as_i64().unwrap(),
            body["new"]["total"].as_i64().unwrap(),
        );
        let due = next.entry(id).or_default();
        assert_eq!(total, *due, "order {id}");
        *due += 1;
    }
    assert_eq!(next.len(), orders, "orders that were told of");
    assert!(
        next.values().all(|due| *due == last + 1),
        "all arrived, but these are due: {next:?}"
    );
}

pub(super) async fn accepted(sink: &Sink, count: u64) {
    amounts_to("deliveries", count, async || sink.counts().succeeded).await;
}

/// Waits until the queue holds so many jobs.
async fn waiting(db: &TestDb, count: usize) {
    amounts_to("jobs", count as u64, async || pending(db).await as u64).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_with_a_failed_delivery_flows_again() {
    flows_again(LONG).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_with_a_failed_delivery_in_redis_flows_again() {
    let redis = redis().await;
    flows_again(&in_redis(&redis).replace("workerLeaseDuration: 5s", "workerLeaseDuration: 10m"))
        .await;
}

async fn flows_again(spec: &str) {
    let db = orders().await;
    let failing = Behaviour::FailShare {
        per_mille: 20,
        seed: 11,
        status: 503,
    };
    let sink = Sink::start(failing).await.unwrap();
    let soon = "timeout: 5m\n      retry: {attempts: 20, initialBackoff: 100ms, maxBackoff: 200ms}";
    let config = Config::new(&db.url, spec, &observer("one", &sink.url("/hook"), soon));
    let address = free_address();
    let process = Process::start(&["run", "--listen", &address, "-f"], &config.path());
    db.run("insert into orders values (1)").await;
    for _ in 0..400 {
        db.run("update orders set total = total + 1").await;
    }
    accepted(&sink, 401).await;
    sink.behave(Behaviour::Ok);
    let failed = sink.counts().requests - 401;
    eventually("the key is on the fast path again", async || {
        let before = enqueued(&address).await;
        db.run("update orders set total = total + 1").await;
        let last: i32 = sqlx::query_scalar("select total from orders")
            .fetch_one(&db.pool)
            .await
            .unwrap();
        accepted(&sink, u64::from(last.unsigned_abs()) + 1).await;
        let after = enqueued(&address).await;
        (before.to_bits() == after.to_bits()).then_some(())
    })
    .await;
    println!(
        "{failed} attempts failed, {} jobs",
        enqueued(&address).await
    );
    let last: i32 = sqlx::query_scalar("select total from orders")
        .fetch_one(&db.pool)
        .await
        .unwrap();
    in_order(&sink.received(), 1, last.into());
    assert!(failed > 0, "some failed");
    process.stop().await;
}

/// Rows in several statements, so that there are many windows.
async fn fill(db: &TestDb, rows: usize) {
    for from in (1..=rows).step_by(500) {
        let to = rows.min(from + 499);
        db.run(&format!(
            "insert into orders select generate_series({from}, {to})"
        ))
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn dead_endpoint_blocks_no_other_and_drains_in_order() {
    const ROWS: usize = 2000;
    let db = orders().await;
    let well = Sink::start(Behaviour::Ok).await.unwrap();
    let dead = Sink::start(Behaviour::Status(503)).await.unwrap();
    // Attempts for longer than all else takes, on any machine.
    let often = "timeout: 5m\n      retry: {attempts: 100, initialBackoff: 1s, maxBackoff: 30s}";
    let mut observers: Vec<String> = (0..9)
        .map(|n| observer(&format!("well{n}"), &well.url(&format!("/{n}")), often))
        .collect();
    observers.push(observer("dead", &dead.url("/dead"), often));
    let spec = format!("{LONG}{LONG_LEASE}");
    let config = Config::new(&db.url, &spec, &observers.concat());
    let process = Process::run(&config);
    let rounds = async |from: u64| {
        let begun = Instant::now();
        accepted(&well, from + 9 * ROWS as u64).await;
        begun.elapsed()
    };
    fill(&db, ROWS).await;
    let first = rounds(0).await;
    db.run("update orders set total = total + 1").await;
    let second = rounds(9 * ROWS as u64).await;
    println!("nine receivers beside a dead one: {first:?}, then {second:?}");
    waiting(&db, 2 * ROWS).await;
    dead.behave(Behaviour::Ok);
    accepted(&dead, 2 * ROWS as u64).await;
    left(&db, 0).await;
    in_order(&dead.received(), ROWS, 1);
    assert_eq!(
        well.counts().succeeded,
        18 * ROWS as u64,
        "nothing is repeated"
    );
    process.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn overflowing_job_lanes_keep_order_across_kills() {
    const ROWS: usize = 5000;
    let db = orders().await;
    let sink = Sink::start(Behaviour::Status(503)).await.unwrap();
    let often = "timeout: 5m\n      retry: {attempts: 100, initialBackoff: 3s, maxBackoff: 10s}";
    let hook = observer("many", &sink.url("/hook"), often);
    let spec = format!("{LONGER}{LONG_LEASE}");
    let config = Config::new(&db.url, &spec, &hook);
    let mut process = Process::run(&config);
    fill(&db, ROWS).await;
    process
        .says("so all deliveries of the action go by the queue")
        .await;
    waiting(&db, ROWS).await;
    db.run("update orders set total = total + 1").await;
    process.kill().await;
    let address = free_address();
    let process = Process::start(&["run", "--listen", &address, "-f"], &config.path());
    db.run("update orders set total = total + 1").await;
    waiting(&db, 3 * ROWS).await;
    sink.behave(Behaviour::Ok);
    accepted(&sink, 3 * ROWS as u64).await;
    left(&db, 0).await;
    in_order(&sink.received(), ROWS, 2);
    eventually("the action is on the fast path again", async || {
        let before = enqueued(&address).await;
        let more = sink.counts().succeeded + 1;
        db.run("update orders set total = total where id = 1").await;
        accepted(&sink, more).await;
        (before.to_bits() == enqueued(&address).await.to_bits()).then_some(())
    })
    .await;
    process.stop().await;
}
