//! Rows of sessions, one for each that has not ended. This module owns `observer.console_session`.

use std::time::Duration;

use chrono::{DateTime, Utc};
use sha2::{Digest as _, Sha256};
use sqlx::PgPool;

use crate::session::SessionId;

/// How long a session lasts.
pub const SESSION_LIFETIME: Duration = Duration::from_hours(12);

/// Sessions that are deleted at once.
const BATCH: i64 = 1000;

/// Adds a session.
pub(crate) async fn insert(
    pool: &PgPool,
    listener: &str,
    id: &SessionId,
    expires_at: DateTime<Utc>,
) -> Result<(), sqlx::Error> {
    let insert =
        "insert into observer.console_session (digest, listener, expires_at) values ($1, $2, $3)";
    let insert = sqlx::query(insert).bind(digest(id)).bind(listener);
    insert.bind(expires_at).execute(pool).await?;
    Ok(())
}

/// Returns whether a session has not ended.
pub(crate) async fn exists(
    pool: &PgPool,
    listener: &str,
    id: &SessionId,
) -> Result<bool, sqlx::Error> {
    let select = "select exists (select from observer.console_session where digest = $1 and listener = $2 \
         and expires_at > clock_timestamp())";
    let select = sqlx::query_scalar(select).bind(digest(id)).bind(listener);
    select.fetch_one(pool).await
}

/// Ends a session.
pub(crate) async fn delete(pool: &PgPool, id: &SessionId) -> Result<(), sqlx::Error> {
    let delete = sqlx::query("delete from observer.console_session where digest = $1");
    delete.bind(digest(id)).execute(pool).await?;
    Ok(())
}

/// Deletes the sessions of a listener that are over, a bounded number at once.
pub async fn delete_expired(pool: &PgPool, listener: &str) -> Result<(), sqlx::Error> {
    let delete = "delete from observer.console_session where ctid = any(array(
            select ctid from observer.console_session
            where listener = $1 and expires_at < clock_timestamp() limit $2))";
    loop {
        let deleted = sqlx::query(delete).bind(listener).bind(BATCH);
        if deleted.execute(pool).await?.rows_affected() < BATCH.unsigned_abs() {
            return Ok(());
        }
    }
}

/// Who can read the table learns no id from it.
fn digest(id: &SessionId) -> Vec<u8> {
    Sha256::digest(id).to_vec()
}
