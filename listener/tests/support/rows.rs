//! A table of some rows that count their changes, and what receivers must be told of them.

use sqlx::PgPool;
use testkit::http_sink::Sink;

use super::counters::{self, accepted, check};
use super::listener::observer;
use super::told::told;

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

/// Waits until every row was told of `v`, and checks that each was told of all its values in order
/// and of no later one. Returns how many deliveries were repeats.
pub(crate) async fn all_told(sink: &Sink, v: i64) -> usize {
    let expected = (1..=ROWS).map(|k| (k, v)).collect();
    counters::all_told(sink, &expected).await;
    check(&accepted(&sink.received()), &expected).len()
}

pub(crate) fn rows_to(sink: &Sink, path: &str) -> String {
    observer("kv", "public.kv", &sink.url(path), "")
}

pub(crate) fn at(sink: &Sink, path: &str) -> usize {
    told(sink).iter().filter(|one| one.path == path).count()
}
