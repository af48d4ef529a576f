//! Replay of past events: they are written as dead letters with a redrive requested, so that the running
//! listener takes them through its lanes, with the ids of their first deliveries and marked as replays.

use chrono::{DateTime, Utc};
use crds::config::Operation;
use sqlx::{PgPool, Row};

use super::BoundQuery;
use crate::delivery::event::{ID_SQL, MAX_EVENT_BYTES, MAX_KEY_BYTES, MAX_TENANT_BYTES};
use crate::delivery::failure::FailureKind;

/// Past events and their actions to replay.
#[derive(Clone, Debug)]
pub struct ReplaySelection {
    /// Identity of the listener.
    pub listener: String,
    /// The observer, `namespace/name`.
    pub observer: String,
    /// Actions of the observer to run again.
    pub actions: Vec<String>,
    /// Entity of the events.
    pub entity: String,
    /// Operations of the events.
    pub operations: Vec<Operation>,
    /// Tenant of the events.
    pub tenant: Option<String>,
    /// Key of the events.
    pub key: Option<String>,
    /// Events of transactions that began at this time or later.
    pub from: DateTime<Utc>,
    /// Events of transactions that began before this time.
    pub to: DateTime<Utc>,
}

/// Result of one step of a replay.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReplayStep {
    /// Log id to continue after; `None` at the end.
    pub after: Option<i64>,
    /// Number of events read.
    pub events: u64,
    /// Number of deliveries requested; those that are dead letters already do not count.
    pub requested: u64,
}

/// Returns when the oldest event in the change log occurred.
pub async fn oldest(pool: &PgPool) -> Result<Option<DateTime<Utc>>, sqlx::Error> {
    let oldest = "select occurred_at from observer.change_log order by id limit 1";
    sqlx::query_scalar(oldest).fetch_optional(pool).await
}

/// Counts the events of a selection.
pub async fn count(pool: &PgPool, selection: &ReplaySelection) -> Result<u64, sqlx::Error> {
    let sql = format!("select count(*) from observer.change_log c where {MATCHES} and c.id > 0");
    let count: i64 = bind(&sql, selection).fetch_one(pool).await?.try_get(0)?;
    Ok(count.unsigned_abs())
}

/// Requests the replay of the next events of a selection after a log id: at most `limit`.
pub async fn request(
    pool: &PgPool,
    selection: &ReplaySelection,
    after: i64,
    limit: i64,
) -> Result<ReplayStep, sqlx::Error> {
    let sql = format!(
        "with past as (
             select c.* from observer.change_log c where {MATCHES} and c.id > $7 order by c.id limit $8),
         requested as (
             insert into observer.dead_letter
                 (listener, event_id, log_id, observer, action, entity, operation, key, tenant, hash, occurred_at,
                  old, new, attempts, error_kind, error, redrive_requested_at, traceparent)
             select $9, {ID_SQL}, past.id, $10, action,
                    entity, case operation when 'i' then 'Insert' when 'u' then 'Update' when 'd' then 'Delete'
                                           when 't' then 'Truncate' when 'r' then 'Read' else 'Custom' end,
                    key, tenant, hash, occurred_at, old, new, 0, $11, 'replay requested', clock_timestamp(),
                    traceparent
             from past cross join unnest($12::text[]) as action
             on conflict (listener, event_id, observer, action) do nothing
             returning 1)
         select max(id), count(*), (select count(*) from requested) from past"
    );
    let row = bind(&sql, selection)
        .bind(after)
        .bind(limit)
        .bind(&selection.listener)
        .bind(&selection.observer)
        .bind(FailureKind::Replay.as_str())
        .bind(&selection.actions)
        .fetch_one(pool)
        .await?;
    let events: i64 = row.try_get(1)?;
    let requested: i64 = row.try_get(2)?;
    let last: Option<i64> = row.try_get(0)?;
    Ok(ReplayStep {
        after: last.filter(|_| events == limit),
        events: events.unsigned_abs(),
        requested: requested.unsigned_abs(),
    })
}

/// Excludes events that are too large to be read and so have no deliveries, and rows that backfills have read: they
/// may be others', and are older by now than what another backfill reads.
pub(crate) const MATCHES: &str = "c.entity = $1 and c.operation::text = any($2) and ($3::text is null or c.tenant = $3)
    and ($4::text is null or c.key = $4) and c.occurred_at >= $5 and c.occurred_at < $6 and c.size <= 16777216
    and coalesce(octet_length(c.key), 0) <= 8192 and coalesce(octet_length(c.tenant), 0) <= 8192 and c.operation <> 'r'";

const _: () = assert!(
    MAX_EVENT_BYTES == 16_777_216 && MAX_KEY_BYTES == 8192 && MAX_TENANT_BYTES == 8192,
    "limits of the statement"
);

/// Binds the values of a selection. Statements consist of constants only.
pub(crate) fn bind<'q>(sql: &str, selection: &'q ReplaySelection) -> BoundQuery<'q> {
    let operations: Vec<&str> = selection
        .operations
        .iter()
        .map(|one| letter(*one))
        .collect();
    sqlx::query(sqlx::AssertSqlSafe(sql.to_owned()))
        .bind(&selection.entity)
        .bind(operations)
        .bind(&selection.tenant)
        .bind(&selection.key)
        .bind(selection.from)
        .bind(selection.to)
}

pub(crate) const fn letter(operation: Operation) -> &'static str {
    match operation {
        Operation::Insert => "i",
        Operation::Update => "u",
        Operation::Delete => "d",
        Operation::Truncate => "t",
        Operation::Custom => "c",
        Operation::Read => "r",
    }
}
