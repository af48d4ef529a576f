//! Connections that are cut: what the database did and nobody heard of is found out.

use std::time::{Duration, Instant};

use testkit::http_sink::{Behaviour, Sink};

use super::lanes::{accepted, in_order};
use super::{left, observer, orders};
use crate::support::TestDb;
use crate::support::listener::{Config, Process, STALLED};
use testkit::cut_proxy::Link;

/// So long that no job comes back by a worker's end.
const LEASE: &str = "  queue: {lease: 10m}\n";

/// Waits until jobs are taken. Whoever took them does not know it yet, on so long a way.
async fn taken(db: &TestDb) {
    let deadline = Instant::now() + STALLED;
    loop {
        let taken = "select exists (select from observer.job where state = 'c')";
        if db.value::<bool>(taken).await {
            return;
        }
        assert!(Instant::now() < deadline, "no job is taken");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_whose_claims_had_no_answer_are_claimed_again() {
    const ROWS: usize = 40;
    const ROUNDS: i64 = 4;
    let db = orders().await;
    let link = Link::to(&db.url).await;
    let sink = Sink::start(Behaviour::Ok).await.unwrap();
    let hook = observer("queued", &sink.url("/hook"), "mode: Queued");
    let config = Config::new(&link.url(&db.url), LEASE, &hook);
    let process = Process::run(&config);
    db.run(&format!(
        "insert into orders select generate_series(1, {ROWS})"
    ))
    .await;
    accepted(&sink, ROWS as u64).await;
    for round in 1..=ROUNDS {
        db.run("update orders set total = total + 1").await;
        taken(&db).await;
        link.cut();
        accepted(&sink, ROWS as u64 * (round.unsigned_abs() + 1)).await;
    }
    left(&db, 0).await;
    in_order(&sink.received(), ROWS, ROUNDS);
    process.stop().await;
}
