//! Attempts are counted across processes.

use testkit::http_sink::{Behaviour, Sink};

use super::{LONG, LONGER, in_redis, left, observer, orders, redis};
use crate::support::listener::{Config, Process};
use crate::support::told::{keys_of, letters};

#[tokio::test(flavor = "multi_thread")]
async fn attempts_go_on_where_a_killed_process_left_them() {
    attempts_go_on(LONGER).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn attempts_go_on_where_a_killed_process_left_them_in_redis() {
    let redis = redis().await;
    attempts_go_on(
        &in_redis(&redis).replace("workerLeaseDuration: 5s", "workerLeaseDuration: 20s"),
    )
    .await;
}

async fn attempts_go_on(spec: &str) {
    let db = orders().await;
    let sink = Sink::start(Behaviour::Status(503)).await.unwrap();
    let six = "timeout: 5m\n      retry: {attempts: 6, initialBackoff: 300ms, maxBackoff: 300ms}";
    let config = Config::new(&db.url, spec, &observer("six", &sink.url("/hook"), six));
    let process = Process::run(&config);
    db.run("insert into orders values (1)").await;
    sink.arrived(3).await;
    process.kill().await;
    let before = sink.counts().requests;
    let process = Process::run(&config);
    letters(&db, 1).await;
    let (attempts, history): (i32, i32) =
        sqlx::query_as("select attempts, json_array_length(history) from observer.dead_letter")
            .fetch_one(&db.pool)
            .await
            .unwrap();
    // The one that the kill may have cut off counts, and may not have come to be sent.
    let requests = sink.counts().requests;
    assert_eq!(attempts, 6);
    assert!(
        (5..=6).contains(&requests),
        "{requests} requests, {before} before the kill"
    );
    assert!((5..=6).contains(&history), "{history} attempts are kept");
    left(&db, 0).await;
    process.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_leaves_what_waits_to_the_next_process() {
    let db = orders().await;
    let sink = Sink::start(Behaviour::Status(503)).await.unwrap();
    let seldom = "timeout: 5m\n      retry: {attempts: 3, initialBackoff: 24h, maxBackoff: 24h}";
    let config = Config::new(&db.url, LONG, &observer("six", &sink.url("/hook"), seldom));
    let process = Process::run(&config);
    db.run("insert into orders select generate_series(1, 20)")
        .await;
    sink.arrived(20).await;
    // What comes later of the same keys waits behind.
    db.run("update orders set total = 1").await;
    left(&db, 40).await;
    process.stop().await;
    assert_eq!(sink.counts().requests, 20, "what failed waits for a day");
    sink.behave(Behaviour::Ok);
    let process = Process::run(&config);
    db.run("update orders set total = 2").await;
    let due = "update observer.job set scheduled_at = now(), state = 'a' where state = 's'";
    db.run(due).await;
    keys_of(&sink, "/hook", 60).await;
    left(&db, 0).await;
    process.stop().await;
    let received = sink.received();
    assert_eq!(received.len(), 80, "each was attempted once more");
}
