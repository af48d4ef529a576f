//! What lands in the log when tracked tables change.

mod ends;
mod keys;
mod options;
mod partitions;
mod rights;
mod statements;
mod traces;
mod values;

use crate::support::TestDb;

/// An event as the log holds it, in short: `operation entity key old new`, with `-` for nothing.
pub(crate) async fn events(db: &TestDb) -> Vec<String> {
    sqlx::query_scalar(
        "select concat_ws(' ', operation, entity, coalesce(key, '-'), coalesce(old::text, '-'), coalesce(new::text, '-'))
         from observer.change_log order by id",
    )
    .fetch_all(&db.pool)
    .await
    .unwrap()
}

/// As [`events`], but only `operation key`.
pub(crate) async fn changes(db: &TestDb) -> Vec<String> {
    sqlx::query_scalar(
        "select concat_ws(' ', operation, coalesce(key, '-')) from observer.change_log order by id",
    )
    .fetch_all(&db.pool)
    .await
    .unwrap()
}
