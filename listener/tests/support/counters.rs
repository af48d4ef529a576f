//! What receivers must be told of the counters that writers change (see `writers`).

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

use sqlx::PgPool;
use testkit::http_sink::{Received, Sink};

use testkit::wait::STALLED;

/// Longest time between two checkpoint writes of a busy listener, with room for a busy machine.
pub(crate) const SINCE_LAST_SAVE: Duration = Duration::from_secs(10);

/// What the table says each key must have been told: its last value.
pub(crate) async fn expected(pool: &PgPool) -> BTreeMap<i64, i64> {
    let rows: Vec<(i32, i32)> = sqlx::query_as("select k, v from kv")
        .fetch_all(pool)
        .await
        .unwrap();
    rows.into_iter()
        .map(|(k, v)| (i64::from(k), i64::from(v)))
        .collect()
}

/// A delivery that was accepted.
pub(crate) struct Accepted {
    pub(crate) key: i64,
    pub(crate) value: i64,
    pub(crate) id: String,
    pub(crate) path: String,
    pub(crate) at: Instant,
}

/// Everything that was accepted, in order of arrival.
pub(crate) fn accepted(received: &[Received]) -> Vec<Accepted> {
    let ok = received.iter().filter(|one| one.status == Some(200));
    ok.map(|one| {
        let body: serde_json::Value = serde_json::from_slice(&one.body).unwrap();
        Accepted {
            key: body["new"]["k"].as_i64().unwrap(),
            value: body["new"]["v"].as_i64().unwrap(),
            id: one.webhook_id.clone(),
            path: one.line.split(' ').nth(1).unwrap().to_owned(),
            at: one.at,
        }
    })
    .collect()
}

/// Waits until each key has been told this value, or a later one.
pub(crate) async fn all_told(sink: &Sink, expected: &BTreeMap<i64, i64>) {
    let deadline = Instant::now() + STALLED * 3;
    loop {
        let mut last: BTreeMap<i64, i64> = BTreeMap::new();
        for one in accepted(&sink.received()) {
            let value = last.entry(one.key).or_default();
            *value = one.value.max(*value);
        }
        let missing: Vec<_> = expected
            .iter()
            .filter(|(key, value)| **value > 0 && last.get(key).is_none_or(|told| told < *value))
            .collect();
        if missing.is_empty() {
            return;
        }
        assert!(
            Instant::now() < deadline,
            "keys that were not told their values: {missing:?}"
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
pub(crate) fn check(all: &[Accepted], expected: &BTreeMap<i64, i64>) -> Vec<(Instant, Instant)> {
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

/// Waits for all of it, and returns how much was repeated.
pub(crate) async fn all_in_order(pool: &PgPool, sink: &Sink) -> usize {
    let expected = expected(pool).await;
    all_told(sink, &expected).await;
    let all = accepted(&sink.received());
    let repeats = check(&all, &expected).len();
    println!("{} deliveries, {repeats} repeats", all.len());
    repeats
}

/// Checks that nothing was repeated but what was delivered shortly before a kill.
pub(crate) fn check_in_flight(repeats: &[(Instant, Instant)], kills: &[Instant]) {
    for (first, _) in repeats {
        let in_flight = kills
            .iter()
            .any(|kill| *first <= *kill && *kill - *first < SINCE_LAST_SAVE);
        assert!(
            in_flight,
            "only what was under way before a kill is repeated"
        );
    }
}
