//! Administration of dead letters: list, show, redrive and drop.

use chrono::{DateTime, Utc};
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::value::RawValue;
use sqlx::postgres::PgRow;
use sqlx::{PgPool, Row};

use super::BoundQuery;
use super::store::raw;

/// Dead letter as `dead-letters list` shows it.
#[derive(Clone, Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(deny_unknown_fields)]
pub struct DeadLetterRow {
    /// Id of the dead letter.
    pub id: i64,
    /// The listener, `namespace/name`.
    pub listener: String,
    /// Id of the event.
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
    #[schemars(with = "String", extend("format" = "date-time"))]
    pub occurred_at: DateTime<Utc>,
    /// Number of attempts.
    pub attempts: i32,
    /// Kind of the last failure.
    pub error_kind: String,
    /// Error of the last failure.
    pub error: String,
    /// HTTP status of the last response.
    pub status: Option<i16>,
    /// Time at which the delivery was given up.
    #[schemars(with = "String", extend("format" = "date-time"))]
    pub created_at: DateTime<Utc>,
    /// Time at which a redrive was requested that the listener has not picked up yet.
    #[schemars(with = "Option<String>")]
    pub redrive_requested_at: Option<DateTime<Utc>>,
}

/// Dead letter with its event and attempts, as `dead-letters show` shows it.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct DeadLetterDetail {
    /// Columns that `list` shows.
    #[serde(flatten)]
    pub row: DeadLetterRow,
    /// The row before.
    #[schemars(with = "Option<serde_json::Value>")]
    pub old: Option<Box<RawValue>>,
    /// The row after.
    #[schemars(with = "Option<serde_json::Value>")]
    pub new: Option<Box<RawValue>>,
    /// Latest attempts, the last one last.
    #[schemars(with = "serde_json::Value")]
    pub history: Box<RawValue>,
}

/// Filter of dead letters; an empty one matches all.
#[derive(Clone, Debug, Default)]
pub struct DeadLetterFilter {
    /// Ids.
    pub ids: Option<Vec<i64>>,
    /// Listener.
    pub listener: Option<String>,
    /// Observer.
    pub observer: Option<String>,
    /// Action.
    pub action: Option<String>,
    /// Kind of the last failure.
    pub kind: Option<String>,
    /// Entity of the event.
    pub entity: Option<String>,
    /// Key of the event.
    pub key: Option<String>,
    /// Tenant of the event.
    pub tenant: Option<String>,
    /// Given up at this time or later.
    pub since: Option<DateTime<Utc>>,
    /// Given up before this time.
    pub until: Option<DateTime<Utc>>,
}

/// Most bytes of images in one page, beyond the first row.
pub const MAX_PAGE_BYTES: i64 = 16 << 20;

const COLUMNS: &str =
    "id, listener, event_id, observer, action, entity, operation, key, tenant, occurred_at,
    attempts, error_kind, error, status, created_at, redrive_requested_at";

const MATCHES: &str =
    "($1::bigint[] is null or id = any($1)) and ($2::text is null or listener = $2)
    and ($3::text is null or observer = $3) and ($4::text is null or action = $4)
    and ($5::text is null or error_kind = $5) and ($6::text is null or entity = $6)
    and ($7::text is null or key = $7) and ($8::text is null or tenant = $8)
    and ($9::timestamptz is null or created_at >= $9) and ($10::timestamptz is null or created_at < $10)";

/// Returns the newest dead letters that match a filter and have ids below `before`.
pub async fn list(
    pool: &PgPool,
    filter: &DeadLetterFilter,
    before: i64,
    limit: i64,
) -> Result<Vec<DeadLetterRow>, sqlx::Error> {
    let sql = format!(
        "select {COLUMNS} from observer.dead_letter where {MATCHES} and id < $11 order by id desc limit $12"
    );
    let query = bind(&sql, filter).bind(before).bind(limit);
    let rows = query.fetch_all(pool).await?;
    rows.iter().map(decode_row).collect()
}

/// Counts the dead letters that match a filter.
pub async fn count(pool: &PgPool, filter: &DeadLetterFilter) -> Result<i64, sqlx::Error> {
    let sql = format!("select count(*) from observer.dead_letter where {MATCHES}");
    bind(&sql, filter).fetch_one(pool).await?.try_get(0)
}

/// Returns the ids of a filter for which there is no match.
pub async fn missing(pool: &PgPool, filter: &DeadLetterFilter) -> Result<Vec<i64>, sqlx::Error> {
    let Some(wanted) = &filter.ids else {
        return Ok(Vec::new());
    };
    let sql = format!("select id from observer.dead_letter where {MATCHES}");
    let rows = bind(&sql, filter).fetch_all(pool).await?;
    let found: Result<Vec<i64>, _> = rows.iter().map(|row| row.try_get(0)).collect();
    let found = found?;
    let missing = wanted.iter().filter(|id| !found.contains(id));
    Ok(missing.copied().collect())
}

/// Returns the match with the lowest id in full.
pub async fn show(
    pool: &PgPool,
    filter: &DeadLetterFilter,
) -> Result<Option<DeadLetterDetail>, sqlx::Error> {
    Ok(page(pool, filter, 0, 1).await?.pop())
}

/// Returns a page of matches with ids above `after`, in the order of their ids: at most `limit`, and no
/// more than [`MAX_PAGE_BYTES`] of images beyond the first.
pub async fn page(
    pool: &PgPool,
    filter: &DeadLetterFilter,
    after: i64,
    limit: i64,
) -> Result<Vec<DeadLetterDetail>, sqlx::Error> {
    let sql = format!(
        "select {COLUMNS}, old::text, new::text, history::text
         from (select *, sum(coalesce(octet_length(old::text), 0) + coalesce(octet_length(new::text), 0))
                         over (order by id) as bytes,
                      row_number() over (order by id) as place
               from (select * from observer.dead_letter where {MATCHES} and id > $11 order by id limit $12) part) part
         where place = 1 or bytes <= $13
         order by id"
    );
    let rows = bind(&sql, filter)
        .bind(after)
        .bind(limit)
        .bind(MAX_PAGE_BYTES)
        .fetch_all(pool)
        .await?;
    rows.iter().map(decode_detail).collect()
}

/// Returns the highest id that matches a filter, 0 if there is none, and how many match.
pub async fn newest_and_count(
    pool: &PgPool,
    filter: &DeadLetterFilter,
) -> Result<(i64, i64), sqlx::Error> {
    let sql =
        format!("select coalesce(max(id), 0), count(*) from observer.dead_letter where {MATCHES}");
    let row = bind(&sql, filter).fetch_one(pool).await?;
    Ok((row.try_get(0)?, row.try_get(1)?))
}

/// Position of a redrive in parts, in the order of the change log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RedriveCursor {
    log_id: i64,
    id: i64,
}

/// Requests the redrive of the next matches beyond `after` in the order of the change log that have none
/// requested yet: at most `limit`, none with an id above `up_to`. Returns how many, and the position to
/// continue from, if there may be more.
///
/// No dead letter is redriven twice by continuing: one that fails again is behind the position.
pub async fn redrive_some(
    pool: &PgPool,
    filter: &DeadLetterFilter,
    (after, up_to): (RedriveCursor, i64),
    limit: i64,
) -> Result<(u64, Option<RedriveCursor>), sqlx::Error> {
    let sql = format!(
        "with part as (
             select id, log_id from observer.dead_letter
             where redrive_requested_at is null and {MATCHES} and id <= $11 and (log_id, id) > ($12, $13)
             order by log_id, id limit $14),
         requested as (
             update observer.dead_letter d set redrive_requested_at = clock_timestamp()
             from part where d.id = part.id and d.redrive_requested_at is null
             returning d.id)
         select log_id, id, (select count(*) from requested) as requested from part order by log_id desc, id desc limit 1"
    );
    let query = bind(&sql, filter)
        .bind(up_to)
        .bind(after.log_id)
        .bind(after.id)
        .bind(limit);
    let Some(last) = query.fetch_optional(pool).await? else {
        return Ok((0, None));
    };
    let cursor = RedriveCursor {
        log_id: last.try_get("log_id")?,
        id: last.try_get("id")?,
    };
    let requested: i64 = last.try_get("requested")?;
    Ok((requested.unsigned_abs(), Some(cursor)))
}

/// Requests the redrive of all matches. Returns how many had none requested yet.
pub async fn redrive_selected(
    pool: &PgPool,
    filter: &DeadLetterFilter,
) -> Result<u64, sqlx::Error> {
    redrive_up_to(pool, filter, i64::MAX).await
}

/// Requests the redrive of all matches without an id above `up_to`. Returns how many had none requested yet.
pub async fn redrive_up_to(
    pool: &PgPool,
    filter: &DeadLetterFilter,
    up_to: i64,
) -> Result<u64, sqlx::Error> {
    let sql = format!(
        "update observer.dead_letter set redrive_requested_at = clock_timestamp()
         where redrive_requested_at is null and {MATCHES} and id <= $11"
    );
    let query = bind(&sql, filter).bind(up_to);
    Ok(query.execute(pool).await?.rows_affected())
}

/// Deletes all matches. Returns how many.
pub async fn drop_selected(pool: &PgPool, filter: &DeadLetterFilter) -> Result<u64, sqlx::Error> {
    drop_up_to(pool, filter, i64::MAX).await
}

/// Deletes all matches without an id above `up_to`. Returns how many.
pub async fn drop_up_to(
    pool: &PgPool,
    filter: &DeadLetterFilter,
    up_to: i64,
) -> Result<u64, sqlx::Error> {
    let sql = format!("delete from observer.dead_letter where {MATCHES} and id <= $11");
    let query = bind(&sql, filter).bind(up_to);
    Ok(query.execute(pool).await?.rows_affected())
}

/// Binds the values of a filter. Statements consist of constants only.
fn bind<'q>(sql: &str, filter: &'q DeadLetterFilter) -> BoundQuery<'q> {
    sqlx::query(sqlx::AssertSqlSafe(sql.to_owned()))
        .bind(&filter.ids)
        .bind(&filter.listener)
        .bind(&filter.observer)
        .bind(&filter.action)
        .bind(&filter.kind)
        .bind(&filter.entity)
        .bind(&filter.key)
        .bind(&filter.tenant)
        .bind(filter.since)
        .bind(filter.until)
}

fn decode_detail(row: &PgRow) -> Result<DeadLetterDetail, sqlx::Error> {
    Ok(DeadLetterDetail {
        row: decode_row(row)?,
        old: raw(row.try_get("old")?)?,
        new: raw(row.try_get("new")?)?,
        history: raw(Some(row.try_get("history")?))?.unwrap_or_default(),
    })
}

fn decode_row(row: &PgRow) -> Result<DeadLetterRow, sqlx::Error> {
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
