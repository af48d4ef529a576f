//! Transactions of pooled connections that may be cut off.

use sqlx::{AssertSqlSafe, PgPool, Postgres, SqlSafeStr as _, Transaction};

/// Begins a transaction. Whoever waits for it may be cut off.
///
/// The driver's own `begin` (sqlx 0.9.0) that is dropped between its question and the answer gives
/// its connection back to the pool with the transaction open, and nothing knows of it: whatever is
/// done on that connection later is part of it and is never committed
/// (<https://github.com/transact-rs/sqlx/issues/4393>). So it is awaited by a task of its own, which
/// takes no longer than a connection and an answer, and whose transaction is rolled back where nobody
/// waits for it any more.
///
/// # Errors
///
/// As [`sqlx::Pool::begin`].
pub async fn begin(pool: &PgPool) -> Result<Transaction<'static, Postgres>, sqlx::Error> {
    begin_by(pool, "begin".to_owned()).await
}

/// The same by a statement of the caller's own, which is `begin` and may set things for the
/// transaction.
///
/// # Errors
///
/// As [`sqlx::Pool::begin_with`].
pub async fn begin_by(
    pool: &PgPool,
    statement: String,
) -> Result<Transaction<'static, Postgres>, sqlx::Error> {
    let pool = pool.clone();
    let statement = AssertSqlSafe(statement).into_sql_str();
    #[expect(clippy::disallowed_methods, reason = "here it is not cut off")]
    let begun = tokio::spawn(async move { pool.begin_with(statement).await });
    match begun.await {
        Ok(begun) => begun,
        // Nobody cuts it off but the end of all.
        Err(error) if error.is_cancelled() => Err(sqlx::Error::PoolClosed),
        Err(_) => Err(sqlx::Error::WorkerCrashed),
    }
}
