//! A table of some rows that count their changes, and what receivers must be told of them.

use std::collections::BTreeMap;

use sqlx::PgPool;
use testkit::http_sink::Sink;

use super::listener::observer;
use super::told::{Told, told};
use super::while_progressing_or;

/// Rows whose `v` counts their changes.
const ROWS: i64 = 10;

pub(crate) async fn make_rows(pool: &PgPool) {
    for statement in [
        "create table kv (k int primary key, v int not null)",
        "insert into kv select k, 0 from generate_series(1, 10) k",
        "select observer.track('kv')",
    ] {
        sqlx::query(statement).execute(pool).await.unwrap();
    }
}

/// Adds one to every row, `times` times.
pub(crate) async fn change_rows(pool: &PgPool, times: usize) {
    for _ in 0..times {
        sqlx::query("update kv set v = v + 1")
            .execute(pool)
            .await
            .unwrap();
    }
}

/// Waits until every row was told of `v`, and checks that none was told of a later value before
/// an earlier one. Returns how many deliveries were repeats.
pub(crate) async fn all_told(sink: &Sink, v: i64) -> usize {
    let look = async || {
        let told = told(sink);
        let last = told.iter().filter(|one| one.body["new"]["v"] == v);
        let mut keys: Vec<&str> = last.map(|one| one.body["key"].as_str().unwrap()).collect();
        keys.sort_unstable();
        keys.dedup();
        if keys.len() == usize::try_from(ROWS).unwrap() {
            Ok(told)
        } else {
            Err(sink.counts().requests)
        }
    };
    let told = while_progressing_or(look, async || {
        let furthest: BTreeMap<String, i64> =
            told(sink).iter().fold(BTreeMap::new(), |mut all, one| {
                let value = all.entry(one.body["key"].to_string()).or_default();
                *value = (*value).max(one.body["new"]["v"].as_i64().unwrap_or_default());
                all
            });
        let counts = sink.counts();
        format!("each of {ROWS} rows told of {v}, and they were told of {furthest:?}; {counts:?}")
    })
    .await;
    repeats(&told)
}

fn repeats(told: &[Told]) -> usize {
    let mut furthest: BTreeMap<&str, i64> = BTreeMap::new();
    let mut ids: BTreeMap<(&str, i64), &str> = BTreeMap::new();
    for one in told {
        let (key, v) = (
            one.body["key"].as_str().unwrap(),
            one.body["new"]["v"].as_i64().unwrap(),
        );
        let most = furthest.entry(key).or_default();
        assert!(v <= *most + 1, "row {key} was told {v} after {most}");
        *most = v.max(*most);
        let id = ids.entry((key, v)).or_insert(&one.id);
        assert_eq!(*id, one.id, "a repeat has the same id");
    }
    told.len() - ids.len()
}

pub(crate) fn rows_to(sink: &Sink, path: &str) -> String {
    observer("kv", "public.kv", &sink.url(path), "")
}

pub(crate) fn at(sink: &Sink, path: &str) -> usize {
    told(sink).iter().filter(|one| one.path == path).count()
}
