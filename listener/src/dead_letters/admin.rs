//! Dead letters as their keeper looks at them: found by what they are of, shown, redriven and
//! dropped.

use chrono::{DateTime, Utc};
use serde::Serialize;
use serde_json::value::RawValue;
use sqlx::postgres::PgRow;
use sqlx::{PgPool, Row};

use super::BoundQuery;
use super::store::raw;

/// A dead letter as `dead-letters list` and `show` give it.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct DeadLetterRow {
    /// Its id.
    pub id: i64,
    /// The listener, `namespace/name`.
    pub listener: String,
    /// The event.
    pub event_id: String,
    /// The observer, `namespace/name`.
    pub observer: String,
    /// The action's name.
    pub action: String,
    /// Entity of the event.
    pub entity: String,
    /// Operation of the event.
    pub operation: String,
    /// Key of the event.
    pub key: Option<String>,
    /// Tenant of the event.
    pub tenant: Option<String>,
    /// When the event's transaction began.
    pub occurred_at: DateTime<Utc>,
    /// Attempts made in all.
    pub attempts: i32,
    /// Kind of the last failure.
    pub error_kind: String,
    /// The last failure.
    pub error: String,
    /// Status of the last answer.
    pub status: Option<i16>,
    /// When it was given up on.
    pub created_at: DateTime<Utc>,
    /// Since when a redrive waits for the listener, if one does.
    pub redrive_requested_at: Option<DateTime<Utc>>,
}

/// A dead letter in full.
#[derive(Debug, Serialize)]
pub struct DeadLetterDetail {
    /// What `list` shows.
    #[serde(flatten)]
    pub stored: DeadLetterRow,
    /// The row before.
    pub old: Option<Box<RawValue>>,
    /// The row after.
    pub new: Option<Box<RawValue>>,
    /// The latest attempts, the last one last.
    pub history: Box<RawValue>,
}

/// Which dead letters a command means.
#[derive(Clone, Debug, Default)]
pub struct DeadLetterFilter {
    /// These ids.
    pub ids: Option<Vec<i64>>,
    /// Those of this listener.
    pub listener: Option<String>,
    /// Those of this observer.
    pub observer: Option<String>,
    /// Those of this action.
    pub action: Option<String>,
    /// Those of this kind of failure.
    pub kind: Option<String>,
    /// Those of events of this entity.
    pub entity: Option<String>,
    /// Those of events of this key.
    pub key: Option<String>,
    /// Those of events of this tenant.
    pub tenant: Option<String>,
    /// Those given up at this moment or later.
    pub since: Option<DateTime<Utc>>,
    /// Those given up before this moment.
    pub until: Option<DateTime<Utc>>,
}

/// Most bytes of images that are read at once.
pub const MAX_PAGE_BYTES: i64 = 16 << 20;

const STORED: &str =
    "id, listener, event_id, observer, action, entity, operation, key, tenant, occurred_at,
    attempts, error_kind, error, status, created_at, redrive_requested_at";

const SELECTED: &str =
    "($1::bigint[] is null or id = any($1)) and ($2::text is null or listener = $2)
    and ($3::text is null or observer = $3) and ($4::text is null or action = $4)
    and ($5::text is null or error_kind = $5) and ($6::text is null or entity = $6)
    and ($7::text is null or key = $7) and ($8::text is null or tenant = $8)
    and ($9::timestamptz is null or created_at >= $9) and ($10::timestamptz is null or created_at < $10)";

/// The newest dead letters of a selection, of those whose ids come before `before`.
pub async fn list(
    pool: &PgPool,
    what: &DeadLetterFilter,
    before: i64,
    most: i64,
) -> Result<Vec<DeadLetterRow>, sqlx::Error> {
    let sql = format!(
        "select {STORED} from observer.dead_letter where {SELECTED} and id < $11 order by id desc limit $12"
    );
    let listing = bind(&sql, what).bind(before).bind(most);
    let rows = listing.fetch_all(pool).await?;
    rows.iter().map(stored).collect()
}

/// How many there are in a selection.
pub async fn count(pool: &PgPool, what: &DeadLetterFilter) -> Result<i64, sqlx::Error> {
    let sql = format!("select count(*) from observer.dead_letter where {SELECTED}");
    bind(&sql, what).fetch_one(pool).await?.try_get(0)
}

/// Of the ids that a selection names, those that it does not have.
pub async fn missing(pool: &PgPool, what: &DeadLetterFilter) -> Result<Vec<i64>, sqlx::Error> {
    let Some(wanted) = &what.ids else {
        return Ok(Vec::new());
    };
    let sql = format!("select id from observer.dead_letter where {SELECTED}");
    let rows = bind(&sql, what).fetch_all(pool).await?;
    let found: Result<Vec<i64>, _> = rows.iter().map(|row| row.try_get(0)).collect();
    let found = found?;
    let missing = wanted.iter().filter(|id| !found.contains(id));
    Ok(missing.copied().collect())
}

/// The first dead letter of a selection in full, by its id.
pub async fn show(
    pool: &PgPool,
    what: &DeadLetterFilter,
) -> Result<Option<DeadLetterDetail>, sqlx::Error> {
    Ok(page(pool, what, 0, 1).await?.pop())
}

/// Of a selection, those whose ids come after `after`, in the order of their ids: for reading
/// all of them, however many, bit by bit. At most so many, and no more than [`MAX_PAGE_BYTES`] of
/// images beyond the first.
pub async fn page(
    pool: &PgPool,
    what: &DeadLetterFilter,
    after: i64,
    most: i64,
) -> Result<Vec<DeadLetterDetail>, sqlx::Error> {
    let sql = format!(
        "select {STORED}, old::text, new::text, history::text
         from (select *, sum(coalesce(octet_length(old::text), 0) + coalesce(octet_length(new::text), 0))
                         over (order by id) as bytes,
                      row_number() over (order by id) as place
               from (select * from observer.dead_letter where {SELECTED} and id > $11 order by id limit $12) part) part
         where place = 1 or bytes <= $13
         order by id"
    );
    let rows = bind(&sql, what)
        .bind(after)
        .bind(most)
        .bind(MAX_PAGE_BYTES)
        .fetch_all(pool)
        .await?;
    rows.iter().map(full).collect()
}

/// The newest of a selection by its id, 0 where there is none.
pub async fn newest(pool: &PgPool, what: &DeadLetterFilter) -> Result<i64, sqlx::Error> {
    let sql = format!("select coalesce(max(id), 0) from observer.dead_letter where {SELECTED}");
    bind(&sql, what).fetch_one(pool).await?.try_get(0)
}

/// How far a redrive of many has come, in the order of the log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RedriveCursor {
    log_id: i64,
    id: i64,
}

/// Asks the listener to try some of a selection again: the first beyond `after` in the order of
/// the log that do not wait for it yet, none whose id comes after `up_to`, and at most so many.
/// Returns how many, and where to go on; nowhere where there are no more.
///
/// None is asked for twice by going on: what fails again at once is behind by then.
pub async fn redrive_some(
    pool: &PgPool,
    what: &DeadLetterFilter,
    (after, up_to): (RedriveCursor, i64),
    most: i64,
) -> Result<(u64, Option<RedriveCursor>), sqlx::Error> {
    let sql = format!(
        "with part as (
             select id, log_id from observer.dead_letter
             where redrive_requested_at is null and {SELECTED} and id <= $11 and (log_id, id) > ($12, $13)
             order by log_id, id limit $14),
         asked as (
             update observer.dead_letter d set redrive_requested_at = clock_timestamp()
             from part where d.id = part.id and d.redrive_requested_at is null
             returning d.id)
         select log_id, id, (select count(*) from asked) as asked from part order by log_id desc, id desc limit 1"
    );
    let asking = bind(&sql, what)
        .bind(up_to)
        .bind(after.log_id)
        .bind(after.id)
        .bind(most);
    let Some(last) = asking.fetch_optional(pool).await? else {
        return Ok((0, None));
    };
    let place = RedriveCursor {
        log_id: last.try_get("log_id")?,
        id: last.try_get("id")?,
    };
    let asked: i64 = last.try_get("asked")?;
    Ok((asked.unsigned_abs(), Some(place)))
}

/// Asks the listener to try a selection again. Returns how many were not already waiting for it.
pub async fn redrive_selected(pool: &PgPool, what: &DeadLetterFilter) -> Result<u64, sqlx::Error> {
    let sql = format!(
        "update observer.dead_letter set redrive_requested_at = clock_timestamp()
         where redrive_requested_at is null and {SELECTED}"
    );
    Ok(bind(&sql, what).execute(pool).await?.rows_affected())
}

/// Drops a selection for good. Returns how many.
pub async fn drop_selected(pool: &PgPool, what: &DeadLetterFilter) -> Result<u64, sqlx::Error> {
    let sql = format!("delete from observer.dead_letter where {SELECTED}");
    Ok(bind(&sql, what).execute(pool).await?.rows_affected())
}

/// The statements here are put together from constants; every value is bound.
fn bind<'q>(sql: &str, what: &'q DeadLetterFilter) -> BoundQuery<'q> {
    sqlx::query(sqlx::AssertSqlSafe(sql.to_owned()))
        .bind(&what.ids)
        .bind(&what.listener)
        .bind(&what.observer)
        .bind(&what.action)
        .bind(&what.kind)
        .bind(&what.entity)
        .bind(&what.key)
        .bind(&what.tenant)
        .bind(what.since)
        .bind(what.until)
}

fn full(row: &PgRow) -> Result<DeadLetterDetail, sqlx::Error> {
    Ok(DeadLetterDetail {
        stored: stored(row)?,
        old: raw(row.try_get("old")?)?,
        new: raw(row.try_get("new")?)?,
        history: raw(Some(row.try_get("history")?))?.unwrap_or_default(),
    })
}

fn stored(row: &PgRow) -> Result<DeadLetterRow, sqlx::Error> {
    Ok(DeadLetterRow {
        id: row.try_get("id")?,
        listener: row.try_get("listener")?,
        event_id: row.try_get("event_id")?,
        observer: row.try_get("observer")?,
        action: row.try_get("action")?,
        entity: row.try_get("entity")?,
        operation: row.try_get("operation")?,
        key: row.try_get("key")?,
        tenant: row.try_get("tenant")?,
        occurred_at: row.try_get("occurred_at")?,
        attempts: row.try_get("attempts")?,
        error_kind: row.try_get("error_kind")?,
        error: row.try_get("error")?,
        status: row.try_get("status")?,
        created_at: row.try_get("created_at")?,
        redrive_requested_at: row.try_get("redrive_requested_at")?,
    })
}
