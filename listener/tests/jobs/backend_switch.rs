//! A switch of the queue's backend, which waits until no job is left in the one before.

use testkit::http_sink::{Behaviour, Sink};
use testkit::servers::redis::PrivateRedis;

use super::lanes::{accepted, in_order};
use super::{in_redis, left, observer, orders, redis};
use crate::support::listener::{Config, Process};
use crate::support::program::command;
use crate::support::{TestDb, eventually, while_progressing_or};

/// Orders, each with a key of its own.
const ROWS: usize = 30;

const IN_POSTGRES: &str = "backend: Postgres";
const IN_REDIS: &str = "backend: Redis";

/// A listener with a queue in Redis whose jobs wait for a second at most and are never given up.
fn config(db: &TestDb, redis: &PrivateRedis, sink: &Sink) -> Config {
    let retry = "timeout: 5m\n      retry: {attempts: 100, initialBackoff: 1s, maxBackoff: 1s}";
    let hook = observer("switched", &sink.url("/hook"), retry);
    // No worker dies here, and none is to be taken for dead.
    let spec = in_redis(redis).replace("lease: 5s", "lease: 1m");
    Config::new(&db.url, &spec, &hook)
}

/// Waits until the queue holds so many jobs, in whichever backend is in use.
async fn holds(config: &Config, jobs: usize) {
    let path = config.path();
    let look = async || {
        let args = ["jobs", "list", "-o", "json", "--limit", "1000", "-f"];
        let args = [&args[..], &[path.to_str().unwrap()]].concat();
        let text = command(&args).await.ok();
        let listed: Vec<serde_json::Value> = serde_json::from_str(&text).unwrap();
        listed.len()
    };
    while_progressing_or(
        async || match look().await {
            listed if listed == jobs => Ok(()),
            listed => Err(listed),
        },
        async || format!("{jobs} jobs, and there are {}", look().await),
    )
    .await;
}

async fn backend(db: &TestDb) -> String {
    db.value("select backend from observer.job_queue").await
}

/// Waits until a backend is in use.
async fn uses(db: &TestDb, expected: &str) {
    eventually(&format!("the queue uses {expected}"), async || {
        (backend(db).await == expected).then_some(())
    })
    .await;
}

async fn insert(db: &TestDb) {
    db.run(&format!(
        "insert into orders select generate_series(1, {ROWS})"
    ))
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn backend_switches_once_its_jobs_are_done() {
    let (db, redis) = (orders().await, redis().await);
    let sink = Sink::start(Behaviour::Status(503)).await.unwrap();
    let config = config(&db, &redis, &sink);
    config.change(IN_REDIS, IN_POSTGRES);
    let process = Process::run(&config);
    insert(&db).await;
    left(&db, ROWS).await;
    process.stop().await;

    config.change(IN_POSTGRES, IN_REDIS);
    let mut process = Process::run(&config);
    process
        .says(&format!(
            "keeps backend Postgres instead of Redis while it holds jobs: {ROWS} now"
        ))
        .await;
    // New jobs go where those of their lanes are.
    db.run("update orders set total = total + 1").await;
    left(&db, 2 * ROWS).await;
    assert_eq!(backend(&db).await, "Postgres");

    sink.behave(Behaviour::Ok);
    accepted(&sink, 2 * ROWS as u64).await;
    uses(&db, "Redis").await;
    process.says("now uses backend Redis").await;
    sink.behave(Behaviour::Status(503));
    db.run("update orders set total = total + 1").await;
    holds(&config, ROWS).await;
    left(&db, 0).await;
    sink.behave(Behaviour::Ok);
    accepted(&sink, 3 * ROWS as u64).await;
    in_order(&sink.received(), ROWS, 2);
    process.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn backend_switches_once_its_jobs_are_cancelled() {
    let (db, redis) = (orders().await, redis().await);
    let sink = Sink::start(Behaviour::Status(503)).await.unwrap();
    let config = config(&db, &redis, &sink);
    let process = Process::run(&config);
    insert(&db).await;
    holds(&config, ROWS).await;
    process.stop().await;

    config.change(IN_REDIS, IN_POSTGRES);
    let mut process = Process::run(&config);
    process
        .says(&format!(
            "keeps backend Redis instead of Postgres while it holds jobs: {ROWS} now"
        ))
        .await;
    holds(&config, ROWS).await;
    let path = config.path();
    let cancel = ["jobs", "cancel", "--all", "--yes", "-f"];
    let cancel = [&cancel[..], &[path.to_str().unwrap()]].concat();
    command(&cancel).await.ok();
    uses(&db, "Postgres").await;
    process.says("now uses backend Postgres").await;
    db.run("update orders set total = total + 1").await;
    left(&db, ROWS).await;
    process.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_job_is_added_to_a_backend_out_of_use() {
    let (db, redis) = (orders().await, redis().await);
    let sink = Sink::start(Behaviour::Status(503)).await.unwrap();
    let config = config(&db, &redis, &sink);
    let mut process = Process::run(&config);
    process.says("shard lease acquired").await;
    // As another process with another configuration would.
    db.run("update observer.job_queue set backend = 'Postgres'")
        .await;
    insert(&db).await;
    // It notices, and switches back since there is no job.
    process.says("uses another backend now").await;
    uses(&db, "Redis").await;
    holds(&config, ROWS).await;
    left(&db, 0).await;
    process.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_with_jobs_must_stay_in_the_configuration() {
    let (db, redis) = (orders().await, redis().await);
    let sink = Sink::start(Behaviour::Ok).await.unwrap();
    let config = config(&db, &redis, &sink);
    db.run("insert into observer.job_queue (listener, backend) values ('default/test', 'Redis')")
        .await;
    let named = format!("redis: {{url: {{value: \"{}\"}}}}", redis.url());
    config.change(&format!("  {named}\n"), "");
    config.change(IN_REDIS, IN_POSTGRES);
    let mut process = Process::run(&config);
    assert!(!process.ends().await.success());
    process.says("name the server in spec.redis").await;
}
