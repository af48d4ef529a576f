//! Past events once more: they are put where redrives are looked for, so that the running listener
//! takes them through its lanes, with the ids that their deliveries had, and marked as replays.

use chrono::{DateTime, Utc};
use crds::config::Operation;
use sqlx::{PgPool, Row};

use crate::capture::excess::{MAX_EVENT_BYTES, MAX_KEY_BYTES, MAX_TENANT_BYTES};
use crate::delivery::event::ID_SQL;
use crate::delivery::failure::FailureKind;

/// Which past events, and what of them.
#[derive(Clone, Debug)]
pub struct Selection {
    /// The listener, as it is known in the database.
    pub listener: String,
    /// The observer, `namespace/name`.
    pub observer: String,
    /// Its actions that are to be done again.
    pub actions: Vec<String>,
    /// What it watches.
    pub entity: String,
    /// The operations of it.
    pub operations: Vec<Operation>,
    /// Events of this tenant only.
    pub tenant: Option<String>,
    /// Events of this key only.
    pub key: Option<String>,
    /// Those of transactions that began at this moment or later.
    pub from: DateTime<Utc>,
    /// And before this one.
    pub to: DateTime<Utc>,
}

/// What one step came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Step {
    /// Where to go on after; nothing where that was all.
    pub after: Option<i64>,
    /// Events that were looked at.
    pub events: u64,
    /// Deliveries that were asked for; fewer where they are dead letters already.
    pub asked: u64,
}

/// When the oldest event that the log still holds occurred.
pub async fn oldest(pool: &PgPool) -> Result<Option<DateTime<Utc>>, sqlx::Error> {
    let oldest = "select occurred_at from observer.change_log order by id limit 1";
    sqlx::query_scalar(oldest).fetch_optional(pool).await
}

/// How many events there are of a selection.
pub async fn count(pool: &PgPool, what: &Selection) -> Result<u64, sqlx::Error> {
    let sql = format!("select count(*) from observer.change_log c where {SELECTED} and c.id > 0");
    let count: i64 = bind(&sql, what).fetch_one(pool).await?.try_get(0)?;
    Ok(count.unsigned_abs())
}

/// Asks for some of a selection, in the order of the log: those that come after an id, at most so
/// many events.
pub async fn ask(
    pool: &PgPool,
    what: &Selection,
    after: i64,
    most: i64,
) -> Result<Step, sqlx::Error> {
    let sql = format!(
        "with past as (
             select c.* from observer.change_log c where {SELECTED} and c.id > $7 order by c.id limit $8),
         asked as (
             insert into observer.dead_letter
                 (listener, event_id, log_id, observer, action, entity, operation, key, tenant, hash, occurred_at,
                  old, new, attempts, error_kind, error, redrive_requested_at)
             select $9, {ID_SQL}, past.id, $10, action,
                    entity, case operation when 'i' then 'Insert' when 'u' then 'Update' when 'd' then 'Delete'
                                           when 't' then 'Truncate' else 'Custom' end,
                    key, tenant, hash, occurred_at, old, new, 0, $11, 'asked for by replay', clock_timestamp()
             from past cross join unnest($12::text[]) as action
             on conflict (listener, event_id, observer, action) do nothing
             returning 1)
         select max(id), count(*), (select count(*) from asked) from past"
    );
    let row = bind(&sql, what)
        .bind(after)
        .bind(most)
        .bind(&what.listener)
        .bind(&what.observer)
        .bind(FailureKind::Replay.as_str())
        .bind(&what.actions)
        .fetch_one(pool)
        .await?;
    let events: i64 = row.try_get(1)?;
    let asked: i64 = row.try_get(2)?;
    let last: Option<i64> = row.try_get(0)?;
    Ok(Step {
        after: last.filter(|_| events == most),
        events: events.unsigned_abs(),
        asked: asked.unsigned_abs(),
    })
}

/// Events too large to be read have nothing to deliver.
const SELECTED: &str = "c.entity = $1 and c.operation::text = any($2) and ($3::text is null or c.tenant = $3)
    and ($4::text is null or c.key = $4) and c.occurred_at >= $5 and c.occurred_at < $6 and c.size <= 16777216
    and coalesce(octet_length(c.key), 0) <= 8192 and coalesce(octet_length(c.tenant), 0) <= 8192";

const _: () = assert!(
    MAX_EVENT_BYTES == 16_777_216 && MAX_KEY_BYTES == 8192 && MAX_TENANT_BYTES == 8192,
    "as the statement says"
);

type Query<'q> = sqlx::query::Query<'q, sqlx::Postgres, sqlx::postgres::PgArguments>;

/// The statements here are put together from constants; every value is bound.
fn bind<'q>(sql: &str, what: &'q Selection) -> Query<'q> {
    let operations: Vec<&str> = what.operations.iter().map(|one| letter(*one)).collect();
    sqlx::query(sqlx::AssertSqlSafe(sql.to_owned()))
        .bind(&what.entity)
        .bind(operations)
        .bind(&what.tenant)
        .bind(&what.key)
        .bind(what.from)
        .bind(what.to)
}

pub(crate) const fn letter(operation: Operation) -> &'static str {
    match operation {
        Operation::Insert => "i",
        Operation::Update => "u",
        Operation::Delete => "d",
        Operation::Truncate => "t",
        Operation::Custom => "c",
    }
}
