//! What lies in Redis, seen past the queue: whether all of it agrees.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use ::redis::AsyncCommands;
use ::redis::aio::MultiplexedConnection;
use observer_queue::JobQueue;

use crate::support::LISTENER;

/// Where the keys of the tests' listener begin.
pub(super) fn prefix() -> String {
    format!("observers:{{{LISTENER}}}:")
}

/// The answer to any command.
pub(super) async fn command<T: ::redis::FromRedisValue>(
    connection: &mut MultiplexedConnection,
    words: &[&str],
) -> T {
    let mut command = ::redis::cmd(words[0]);
    command
        .arg(&words[1..])
        .query_async(connection)
        .await
        .unwrap()
}

/// All keys of the tests' listener, without what they begin with.
pub(super) async fn keys(connection: &mut MultiplexedConnection) -> BTreeSet<String> {
    let keys: Vec<String> = connection.keys("*").await.unwrap();
    let prefix = prefix();
    keys.iter()
        .filter_map(|key| key.strip_prefix(&prefix))
        .map(str::to_owned)
        .collect()
}

pub(super) async fn streams(connection: &mut MultiplexedConnection) -> Vec<String> {
    let keys = keys(connection).await;
    keys.into_iter()
        .filter(|key| key.starts_with("ready:"))
        .map(|key| format!("{}{key}", prefix()))
        .collect()
}

/// Fails where streams, lanes and counters are not what the jobs' hashes say. Only while nobody
/// else works.
pub(super) async fn agree(connection: &mut MultiplexedConnection, queue: &dyn JobQueue) {
    // Makes ready what is due, so that counters and hashes stand still.
    let figures: BTreeMap<_, _> = queue.stats().await.unwrap().into_iter().collect();
    let prefix = prefix();
    let mut counted: BTreeMap<String, HashMap<String, u64>> = BTreeMap::new();
    let mut lanes: BTreeMap<String, BTreeMap<u64, String>> = BTreeMap::new();
    let mut ready = 0;
    for key in keys(connection).await {
        let Some(place) = key.strip_prefix("job:") else {
            continue;
        };
        let job: HashMap<String, String> =
            connection.hgetall(format!("{prefix}{key}")).await.unwrap();
        let state = job["st"].clone();
        if state == "r" {
            ready += 1;
        }
        assert_eq!(state == "c", job.contains_key("w"), "{job:?}");
        let of = counted.entry(job["obs"].clone()).or_default();
        *of.entry(state.clone()).or_default() += 1;
        *of.entry("pending".to_owned()).or_default() += 1;
        let lane = format!("{}:{}:{}", job["hash"], job["obs"], job["act"]);
        lanes
            .entry(lane)
            .or_default()
            .insert(place.parse().unwrap(), state);
    }
    assert_eq!(
        figures.keys().collect::<Vec<_>>(),
        counted.keys().collect::<Vec<_>>()
    );
    for (observer, of) in &counted {
        let of = |state: &str| of.get(state).copied().unwrap_or_default();
        let figures = &figures[observer];
        assert_eq!(figures.pending, of("pending"));
        assert_eq!(figures.pending, figures.by_attempts.iter().sum::<u64>());
        assert_eq!(figures.available, of("r"));
        assert_eq!(figures.running, of("c"));
        assert_eq!(figures.blocked, of("b"));
    }
    for (lane, jobs) in &lanes {
        let states: Vec<&str> = jobs.values().map(String::as_str).collect();
        assert_ne!(states[0], "b", "nobody would work on {lane}");
        for state in &states[1..] {
            assert!(*state == "b" || *state == "c", "{lane} has {states:?}");
        }
    }
    let mut entries = 0;
    for stream in streams(connection).await {
        let length: u64 = command(connection, &["XLEN", &stream]).await;
        assert_ne!(length, 0, "{stream} is empty and still there");
        entries += length;
    }
    assert_eq!(entries, ready, "entries of streams against ready jobs");
}

/// Fails where a queue without jobs has left more than it should.
pub(super) async fn is_bare(connection: &mut MultiplexedConnection) {
    let left: Vec<String> = keys(connection)
        .await
        .into_iter()
        .filter(|key| {
            let kind = key.split(':').next().unwrap_or_default();
            ![
                "seq",
                "rotation_seq",
                "repair_cursor",
                "recent_ids",
                "workers",
                "worker_names",
                "void_claims",
            ]
            .contains(&kind)
        })
        .collect();
    assert_eq!(left, Vec::<String>::new());
}
