//! What the slot holds back on its server, for metrics.

use sqlx::{PgPool, Row};

use super::error::IngestError;

/// What a slot holds back.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct SlotReport {
    /// Bytes of the log that the server keeps for it.
    pub(crate) retained_bytes: f64,
    /// Bytes of the log that are not read yet.
    pub(crate) unread_bytes: f64,
    /// Bytes that may still be written before it is invalidated; nothing without `max_slot_wal_keep_size`.
    pub(crate) safe_bytes: Option<f64>,
    /// Whether it holds what it needs for sure: `reserved` or `extended`.
    pub(crate) is_safe: bool,
}

/// Reads what a slot holds back; nothing if there is none.
pub(crate) async fn read(pool: &PgPool, slot: &str) -> Result<Option<SlotReport>, IngestError> {
    let row = sqlx::query(
        "select pg_wal_lsn_diff(pg_current_wal_lsn(), restart_lsn)::float8,
                pg_wal_lsn_diff(pg_current_wal_lsn(), confirmed_flush_lsn)::float8,
                safe_wal_size::float8, wal_status in ('reserved', 'extended')
         from pg_replication_slots where slot_name = $1",
    )
    .bind(slot)
    .fetch_optional(pool)
    .await
    .map_err(IngestError::Catalog)?;
    let report = |row: sqlx::postgres::PgRow| -> Result<SlotReport, sqlx::Error> {
        Ok(SlotReport {
            retained_bytes: row.try_get::<Option<f64>, _>(0)?.unwrap_or(0.0),
            unread_bytes: row.try_get::<Option<f64>, _>(1)?.unwrap_or(0.0),
            safe_bytes: row.try_get(2)?,
            is_safe: row.try_get::<Option<bool>, _>(3)?.unwrap_or(false),
        })
    };
    row.map(report).transpose().map_err(IngestError::Catalog)
}
