//! Faults while many write: what was committed arrives, in order within a key, whatever happens
//! to the listener.

use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use testkit::http_sink::{Behaviour, Sink};

use crate::support::counters::{Kill, accepted, all_told, check, check_in_flight, expected};
use crate::support::fleet::{LONG_LEASE, SAVE_OFTEN, run_for_a_while};
use crate::support::listener::{Config, Process, observer, patient};
use crate::support::writers::{Writers, make_table};
use crate::support::{TestDb, database};
use testkit::seed::seed;

fn config(db: &TestDb, sink: &Sink) -> Config {
    Config::new(
        &db.url,
        &format!("{LONG_LEASE}{SAVE_OFTEN}"),
        &patient(&observer("kv", "public.kv", &sink.url("/hook"), "")),
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn random_kills_under_load_lose_and_reorder_nothing() {
    const KILLS: usize = 12;
    let seed = seed();
    let mut random = StdRng::seed_from_u64(seed);
    let db = database().await;
    make_table(&db.pool).await;
    let sink = Sink::start(Behaviour::FailShare {
        per_mille: 20,
        seed,
        status: 503,
    })
    .await
    .unwrap();
    let config = config(&db, &sink);
    let writers = Writers::start(&db.url, 8, seed);
    let mut kills = Vec::new();
    for _ in 0..KILLS {
        let process = run_for_a_while(&config, &sink, &mut random).await;
        kills.push(Kill::of(&db.pool, &sink, process.kill()).await);
    }
    writers.stop().await;
    let process = Process::run(&config);
    let expected = expected(&db.pool).await;
    all_told(&sink, &expected).await;
    process.stop().await;
    let all = accepted(&sink.received());
    let repeats = check(&all, &expected);
    println!(
        "{KILLS} kills, {} deliveries, {} repeats",
        all.len(),
        repeats.len()
    );
    check_in_flight(&repeats, &kills);
}

#[tokio::test(flavor = "multi_thread")]
async fn stopped_at_random_while_many_write_nothing_is_repeated() {
    let seed = seed();
    let mut random = StdRng::seed_from_u64(seed);
    let db = database().await;
    make_table(&db.pool).await;
    let sink = Sink::start(Behaviour::Delay(Duration::from_millis(5)))
        .await
        .unwrap();
    let config = config(&db, &sink);
    let writers = Writers::start(&db.url, 8, seed);
    for _ in 0..5 {
        let before = sink.counts().requests;
        let process = Process::run(&config);
        sink.arrived(before + random.random_range(1..400)).await;
        process.stop().await;
    }
    writers.stop().await;
    let process = Process::run(&config);
    let expected = expected(&db.pool).await;
    all_told(&sink, &expected).await;
    process.stop().await;
    let repeats = check(&accepted(&sink.received()), &expected);
    assert_eq!(repeats.len(), 0, "a graceful stop leaves no repeats");
}
