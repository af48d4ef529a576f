//! Transactions on pooled connections whose callers may be cancelled.

use sqlx::{AssertSqlSafe, PgPool, Postgres, SqlSafeStr as _, Transaction};

/// Begins a transaction. Safe to cancel.
///
/// The driver's own `begin` (sqlx 0.9.0), dropped between request and response, returns its connection
/// to the pool with the transaction open and unnoticed: everything done on that connection later is part
/// of it and is never committed (<https://github.com/transact-rs/sqlx/issues/4393>). So a task of its own
/// awaits it, which takes no longer than a connection and a response, and rolls the transaction back if
/// the caller is gone.
///
/// # Errors
///
/// As [`sqlx::Pool::begin`].
pub async fn begin(pool: &PgPool) -> Result<Transaction<'static, Postgres>, sqlx::Error> {
    begin_with(pool, "begin".to_owned()).await
}

/// Begins a transaction with a `begin` statement of the caller, which may set options. Safe to cancel.
///
/// # Errors
///
/// As [`sqlx::Pool::begin_with`].
pub async fn begin_with(
    pool: &PgPool,
    statement: String,
) -> Result<Transaction<'static, Postgres>, sqlx::Error> {
    let pool = pool.clone();
    let statement = AssertSqlSafe(statement).into_sql_str();
    #[expect(clippy::disallowed_methods, reason = "here it is never cancelled")]
    let started = tokio::spawn(async move { pool.begin_with(statement).await });
    match started.await {
        Ok(started) => started,
        // Only the end of the runtime cancels it.
        Err(error) if error.is_cancelled() => Err(sqlx::Error::PoolClosed),
        Err(_) => Err(sqlx::Error::WorkerCrashed),
    }
}
