//! Cleanup after a deleted listener: a pod of its own deletes its rows once all others have stopped.

use sqlx::PgPool;

use crate::database::has_code;

/// The schema or the function is not there: `invalid_schema_name`, `undefined_function`.
const NOTHING_KEPT: [&str; 2] = ["3F000", "42883"];

/// Deletes the rows of a listener whose pods have ended, and returns their number. A database without
/// the schema has none.
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
