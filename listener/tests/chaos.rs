//! Faults while many write: what was committed arrives, in order within a key, whatever happens
//! to the listener.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

use observer_listener::demo::sink::{Behaviour, Received, Sink};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::support::listener::{Config, Process, SOON, observer};
use crate::support::writers::{Writers, make_table};
use crate::support::{TestDb, database};

/// Longest time between two checkpoint writes of a busy listener, with room for a busy machine.
const SINCE_LAST_SAVE: Duration = Duration::from_secs(3);

fn seed() -> u64 {
    let seed = std::env::var("OBSERVER_TEST_SEED")
        .ok()
        .and_then(|text| text.parse().ok());
    let seed = seed.unwrap_or_else(rand::random);
    println!("seed: OBSERVER_TEST_SEED={seed}");
    seed
}

/// What the table says each key must have been told: its last value.
async fn expected(db: &TestDb) -> BTreeMap<i64, i64> {
    let rows: Vec<(i32, i32)> = sqlx::query_as("select k, v from kv")
        .fetch_all(&db.pool)
        .await
        .unwrap();
    rows.into_iter()
        .map(|(k, v)| (i64::from(k), i64::from(v)))
        .collect()
}

/// A delivery that was accepted.
struct Accepted {
    key: i64,
    value: i64,
    id: String,
    at: Instant,
}

fn accepted(received: &[Received]) -> Vec<Accepted> {
    let ok = received.iter().filter(|one| one.status == Some(200));
    ok.map(|one| {
        let body: serde_json::Value = serde_json::from_slice(&one.body).unwrap();
        Accepted {
            key: body["new"]["k"].as_i64().unwrap(),
            value: body["new"]["v"].as_i64().unwrap(),
            id: one.webhook_id.clone(),
            at: one.at,
        }
    })
    .collect()
}

/// Waits until each key has been told its last value.
async fn all_told(sink: &Sink, expected: &BTreeMap<i64, i64>) {
    let deadline = Instant::now() + SOON * 3;
    loop {
        let mut last: BTreeMap<i64, i64> = BTreeMap::new();
        for one in accepted(&sink.received()) {
            let value = last.entry(one.key).or_default();
            *value = one.value.max(*value);
        }
        let missing: Vec<_> = expected
            .iter()
            .filter(|(key, value)| **value > 0 && last.get(key) != Some(value))
            .collect();
        if missing.is_empty() {
            return;
        }
        assert!(
            Instant::now() < deadline,
            "keys that were not told their last value: {missing:?}"
        );
        let more = sink.counts().requests + 1;
        sink.wait_for(more, Duration::from_secs(1)).await;
    }
}

/// What a key was told, with the ids, for a failure's message.
fn told(all: &[Accepted], key: i64) -> Vec<(i64, &str)> {
    all.iter()
        .filter(|one| one.key == key)
        .map(|one| (one.value, one.id.as_str()))
        .collect()
}

/// Checks order within keys and completeness; returns the repeats with the times of both deliveries.
fn check(all: &[Accepted], expected: &BTreeMap<i64, i64>) -> Vec<(Instant, Instant)> {
    let mut furthest: HashMap<i64, i64> = HashMap::new();
    let mut first: HashMap<(i64, i64), (&str, Instant)> = HashMap::new();
    let mut repeats = Vec::new();
    for one in all {
        // All rows but the writers' own were there before the table was tracked.
        let most = furthest
            .entry(one.key)
            .or_insert(if one.key == 1000 { -1 } else { 0 });
        assert!(
            one.value <= *most + 1,
            "key {} was told {} after {most}: lost or out of order: {:?}",
            one.key,
            one.value,
            told(all, one.key)
        );
        if let Some((id, at)) = first.get(&(one.key, one.value)) {
            assert_eq!(*id, one.id, "a repeat has the same id");
            repeats.push((*at, one.at));
        } else {
            first.insert((one.key, one.value), (&one.id, one.at));
        }
        *most = one.value.max(*most);
    }
    for (key, value) in expected {
        assert_eq!(furthest.get(key).copied().unwrap_or(0), *value, "key {key}");
    }
    let mut ids: Vec<&str> = first.values().map(|(id, _)| *id).collect();
    let count = ids.len();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), count, "different events have different ids");
    repeats
}

fn config(db: &TestDb, sink: &Sink) -> Config {
    Config::new(
        &db.url,
        "  checkpoint: {interval: 100ms}",
        &observer("kv", "public.kv", &sink.url("/hook"), ""),
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_at_random_while_many_write_nothing_is_lost_or_out_of_order() {
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
        let before = sink.counts().requests;
        let mut process = Process::run(&config);
        process.says("running").await;
        sink.wait_for(before + random.random_range(1..400), SOON)
            .await;
        tokio::time::sleep(Duration::from_millis(random.random_range(0..300))).await;
        process.kill().await;
        kills.push(Instant::now());
    }
    writers.stop().await;
    let process = Process::run(&config);
    let expected = expected(&db).await;
    all_told(&sink, &expected).await;
    process.stop().await;
    let all = accepted(&sink.received());
    let repeats = check(&all, &expected);
    println!(
        "{KILLS} kills, {} deliveries, {} repeats",
        all.len(),
        repeats.len()
    );
    for (first, _) in &repeats {
        let in_flight = kills
            .iter()
            .any(|kill| *first <= *kill && *kill - *first < SINCE_LAST_SAVE);
        assert!(
            in_flight,
            "only what was under way before a kill is repeated"
        );
    }
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
        sink.wait_for(before + random.random_range(1..400), SOON)
            .await;
        process.stop().await;
    }
    writers.stop().await;
    let process = Process::run(&config);
    let expected = expected(&db).await;
    all_told(&sink, &expected).await;
    process.stop().await;
    let repeats = check(&accepted(&sink.received()), &expected);
    assert_eq!(repeats.len(), 0, "a graceful stop leaves no repeats");
}
