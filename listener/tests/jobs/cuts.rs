//! Connections that are cut: what the database did and nobody heard of is found out.

use std::time::Duration;

use testkit::http_sink::{Behaviour, Sink};

use super::lanes::{accepted, in_order};
use super::{LONG, left, observer, orders};
use crate::support::TestDb;
use crate::support::listener::{Config, Process};
use testkit::cut_proxy::Link;
use testkit::wait::Patience;

/// Most rounds to find jobs that are taken in.
const MOST: i64 = 100;

/// Waits until jobs are taken, which whoever took them does not know yet, on so long a way. False
/// where all were done before anybody looked.
async fn taken(db: &TestDb, sink: &Sink, done: u64) -> bool {
    let mut patience = Patience::default();
    loop {
        let taken = "select exists (select from observer.job where state = 'r')";
        if db.value::<bool>(taken).await {
            return true;
        }
        let counts = sink.counts();
        if counts.succeeded >= done {
            return false;
        }
        assert!(patience.lasts(), "no job is taken, {counts:?} of {done}");
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
    let hook = observer(
        "queued",
        &sink.url("/hook"),
        "mode: Queued\n      timeout: 5m",
    );
    // So long a lease that no job comes back by a worker's end.
    let config = Config::new(&link.url(&db.url), LONG, &hook);
    let process = Process::run(&config);
    db.run(&format!(
        "insert into orders select generate_series(1, {ROWS})"
    ))
    .await;
    accepted(&sink, ROWS as u64).await;
    let (mut rounds, mut cut) = (0, 0);
    while cut < ROUNDS {
        assert!(rounds < MOST, "{cut} of {rounds} rounds were cut");
        rounds += 1;
        db.run("update orders set total = total + 1").await;
        let all = ROWS as u64 * (rounds.unsigned_abs() + 1);
        if taken(&db, &sink, all).await {
            link.cut();
            cut += 1;
        }
        accepted(&sink, all).await;
    }
    left(&db, 0).await;
    in_order(&sink.received(), ROWS, rounds);
    process.stop().await;
}
