//! What receivers must be told of the counters that writers change (see `writers`).

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::RangeInclusive;
use std::time::Instant;

use sqlx::PgPool;
use testkit::http_sink::{Received, Sink};
use testkit::tally::{Arrival, Tally};

use super::{while_progressing_or, writers};

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
    let ok = received.iter().filter(|one| one.is_accepted());
    ok.map(|one| {
        let body: serde_json::Value = serde_json::from_slice(&one.body).unwrap();
        Accepted {
            key: body["new"]["k"].as_i64().unwrap(),
            value: body["new"]["v"].as_i64().unwrap(),
            id: one.webhook_id.clone(),
            path: one.target().to_owned(),
            at: one.at,
        }
    })
    .collect()
}

/// The values that each key must have been told of, where this is the last.
fn changes(expected: &BTreeMap<i64, i64>) -> impl Iterator<Item = (&i64, RangeInclusive<i64>)> {
    expected.iter().map(|(key, last)| {
        // All rows but the writers' own were there before the table was tracked.
        let first = i64::from(*key != writers::OWN);
        (key, first..=*last)
    })
}

/// Waits until each key has been told all of its values up to this one.
pub(crate) async fn all_told(sink: &Sink, expected: &BTreeMap<i64, i64>) {
    let missing = || {
        let mut tally = Tally::default();
        for one in accepted(&sink.received()) {
            tally.arrives(one.key, one.value);
        }
        let missing = tally.missing(changes(expected));
        let missing = missing.map(|(key, value)| (*key, value, tally.furthest(key)));
        missing.collect::<Vec<_>>()
    };
    let look = async || {
        if missing().is_empty() {
            Ok(())
        } else {
            Err(sink.counts().requests)
        }
    };
    while_progressing_or(look, async || {
        let (mut missing, counts) = (missing(), sink.counts());
        let count = missing.len();
        missing.dedup_by_key(|(key, ..)| *key);
        format!(
            "{count} values are missing, the first of each key (key, value, furthest told): {missing:?}; \
             {counts:?}"
        )
    })
    .await;
}

/// What a key was told, with the ids, for a failure's message.
fn told(all: &[Accepted], key: i64) -> Vec<(i64, &str)> {
    all.iter()
        .filter(|one| one.key == key)
        .map(|one| (one.value, one.id.as_str()))
        .collect()
}

/// A delivery that was accepted before.
pub(crate) struct Repeat {
    key: i64,
    value: i64,
    first: Instant,
}

/// Checks order within keys and completeness; returns the repeats.
pub(crate) fn check(all: &[Accepted], expected: &BTreeMap<i64, i64>) -> Vec<Repeat> {
    let mut tally = Tally::default();
    let mut first: HashMap<(i64, i64), &Accepted> = HashMap::new();
    let mut repeats = Vec::new();
    for one in all {
        let Accepted { key, value, .. } = *one;
        assert!(
            expected.get(&key).is_some_and(|last| value <= *last),
            "key {key} was told {value}, and has no such value: {:?}",
            told(all, key)
        );
        match tally.arrives(key, value) {
            Arrival::InOrder => {
                first.insert((key, value), one);
            }
            Arrival::Late => panic!(
                "key {key} was told {value} out of order: {:?}",
                told(all, key)
            ),
            Arrival::Repeated => {
                let first = first[&(key, value)];
                assert_eq!(first.id, one.id, "a repeat has the same id");
                repeats.push(Repeat {
                    key,
                    value,
                    first: first.at,
                });
            }
        }
    }
    if let Some((key, value)) = tally.missing(changes(expected)).next() {
        panic!("key {key} was never told {value}: {:?}", told(all, *key));
    }
    let ids: BTreeSet<&str> = first.values().map(|one| &*one.id).collect();
    assert_eq!(
        ids.len(),
        first.len(),
        "different events have different ids"
    );
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

/// What a kill may have cut off: what was not saved as done when this was looked for shortly before,
/// and what was delivered since then.
pub(crate) struct Kill {
    looked: Instant,
    unsaved: BTreeSet<(i64, i64)>,
    done: Instant,
    said: String,
}

impl Kill {
    /// Looks for what is not saved, has somebody killed, and waits until the sink has read all that the
    /// process had sent.
    pub(crate) async fn of(
        pool: &PgPool,
        sink: &Sink,
        killing: impl Future<Output = String>,
    ) -> Self {
        let looked = Instant::now();
        let unsaved: Vec<(i64, i64)> = sqlx::query_as(
            "select (l.new ->> 'k')::bigint, (l.new ->> 'v')::bigint
             from observer.change_log l join observer.checkpoint c on l.hash % c.shards = c.shard
             where l.new is not null and not pg_visible_in_snapshot(l.xid, c.base_snapshot)
                 and l.id <> all (c.completed_ids)
                 and (c.window_snapshot is null or l.id > c.last_id or not pg_visible_in_snapshot(l.xid, c.window_snapshot))
             union
             select (event -> 'new' ->> 'k')::bigint, (event -> 'new' ->> 'v')::bigint from observer.job",
        )
        .fetch_all(pool)
        .await
        .unwrap();
        let said = killing.await;
        sink.drained().await;
        Self {
            looked,
            unsaved: unsaved.into_iter().collect(),
            done: Instant::now(),
            said,
        }
    }

    /// Whether its process let go of shards by itself, as it must when the database does not answer
    /// for as long as a Lease lasts: what it had done since its last save is then repeated, too.
    fn let_go(&self) -> bool {
        ["database outage", "shard lease lost"]
            .iter()
            .any(|text| self.said.contains(text))
    }

    fn cut_off(&self, one: &Repeat) -> bool {
        let since = one.first >= self.looked || self.unsaved.contains(&(one.key, one.value));
        since && one.first <= self.done
    }
}

/// Checks that nothing was repeated but what a kill may have cut off.
pub(crate) fn check_in_flight(repeats: &[Repeat], kills: &[Kill]) {
    if kills.iter().any(Kill::let_go) {
        println!("repeats are not judged, as a process was without its database for too long");
        return;
    }
    for one in repeats {
        assert!(
            kills.iter().any(|kill| kill.cut_off(one)),
            "key {} was told {} again, though that was saved before every kill that followed; the processes \
             said:\n{}",
            one.key,
            one.value,
            kills.iter().map(|kill| &*kill.said).collect::<String>()
        );
    }
}
