//! The end of a listener in a cluster: a pod of its own deletes its rows once all others have stopped.

use sqlx::PgPool;

use crate::database::has_code;

/// The schema or the function is not there: `invalid_schema_name`, `undefined_function`.
const NOTHING_KEPT: [&str; 2] = ["3F000", "42883"];

/// Deletes what is kept of a listener, whose pods have ended, and answers how many rows that were. A
/// database that has never kept anything has nothing to remove.
pub async fn drop_listener(pool: &PgPool, listener: &str) -> Result<i64, sqlx::Error> {
    let rows = sqlx::query_scalar("select observer.drop_listener($1)")
        .bind(listener)
        .fetch_one(pool)
        .await;
    match rows {
        Err(error) if has_code(&error, &NOTHING_KEPT) => Ok(0),
        rows => rows,
    }
}
