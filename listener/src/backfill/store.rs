//! What people do with backfills. This module and `work` own `observer.backfill`.

use std::time::Duration;

use chrono::{DateTime, Utc};
use schemars::JsonSchema;
use serde::Serialize;
use sqlx::postgres::PgRow;
use sqlx::{PgConnection, PgPool, Row};

use super::request::{BackfillFilter, BackfillRequest, MAX_FILTERS, MAX_RATE};
use crate::database::{has_code, interval};

/// Most backfills of a listener that are yet to end.
const MAX_UNFINISHED: i64 = 1000;

/// How long one that is over is kept.
const KEPT: Duration = Duration::from_hours(30 * 24);

/// How far a backfill is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub enum BackfillState {
    /// It has not begun.
    Pending,
    /// Its rows are being read.
    Running,
    /// All rows are in the change log.
    Completed,
    /// It was cancelled.
    Cancelled,
    /// It cannot go on without a change by a person.
    Failed,
}

impl BackfillState {
    /// All states.
    pub const ALL: [Self; 5] = [
        Self::Pending,
        Self::Running,
        Self::Completed,
        Self::Cancelled,
        Self::Failed,
    ];

    /// Its name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "Pending",
            Self::Running => "Running",
            Self::Completed => "Completed",
            Self::Cancelled => "Cancelled",
            Self::Failed => "Failed",
        }
    }

    /// Whether it is over, unless somebody resumes it.
    #[must_use]
    pub const fn is_over(self) -> bool {
        !matches!(self, Self::Pending | Self::Running)
    }

    fn parse(text: &str) -> Self {
        let known = Self::ALL.into_iter().find(|one| one.as_str() == text);
        known.unwrap_or(Self::Failed)
    }
}

/// A backfill.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(deny_unknown_fields)]
pub struct Backfill {
    /// Its id.
    pub id: i64,
    /// Table, as `schema.table`.
    pub entity: String,
    /// The only observer that its events are for.
    pub observer: Option<String>,
    /// Only rows for which all of these hold.
    pub filters: Vec<BackfillFilter>,
    /// Most rows per second.
    pub rate: Option<u32>,
    /// How far it is.
    pub state: BackfillState,
    /// Rows that were read, including those left out because they had changed.
    pub rows_read: u64,
    /// Rows of the table, as the planner estimates them; filters are not counted in.
    pub estimated_rows: Option<u64>,
    /// What keeps it from going on.
    pub error: Option<String>,
    /// When it was asked for.
    #[schemars(with = "String", extend("format" = "date-time"))]
    pub requested_at: DateTime<Utc>,
    /// When it began.
    #[schemars(with = "Option<String>")]
    pub started_at: Option<DateTime<Utc>>,
    /// When it was over.
    #[schemars(with = "Option<String>")]
    pub finished_at: Option<DateTime<Utc>>,
}

/// A backfill is not started.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The database does not answer, or refuses.
    #[error("{}", ::queue::describe_error(.0))]
    Database(#[from] sqlx::Error),
    /// There are too many.
    #[error("{MAX_UNFINISHED} backfills of this listener are not over yet; cancel some, or wait")]
    TooMany,
    /// Something of it is out of bounds.
    #[error("{0}")]
    Invalid(String),
}

/// A change of a backfill by a person.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// It was done.
    Done,
    /// There is no such backfill of the listener.
    Missing,
    /// It is in a state in which nothing is to be done.
    Already(BackfillState),
}

pub(super) const COLUMNS: &str = "id, entity, observer, filters::text, rate, state, rows_read, estimated_rows, error, requested_at,
    started_at, finished_at, last_key, epoch, listener, key_columns";

pub(super) fn backfill(row: &PgRow) -> Result<Backfill, sqlx::Error> {
    let filters: String = row.try_get(3)?;
    let filters =
        serde_json::from_str(&filters).map_err(|error| sqlx::Error::Decode(error.into()))?;
    let state: &str = row.try_get(5)?;
    let rate: Option<i32> = row.try_get(4)?;
    Ok(Backfill {
        id: row.try_get(0)?,
        entity: row.try_get(1)?,
        observer: row.try_get(2)?,
        filters,
        rate: rate.map(i32::unsigned_abs),
        state: BackfillState::parse(state),
        rows_read: row.try_get::<i64, _>(6)?.unsigned_abs(),
        estimated_rows: row.try_get::<Option<i64>, _>(7)?.map(i64::unsigned_abs),
        error: row.try_get(8)?,
        requested_at: row.try_get(9)?,
        started_at: row.try_get(10)?,
        finished_at: row.try_get(11)?,
    })
}

/// Starts a backfill, and returns its id. A process of the listener takes it up within seconds.
pub async fn start(pool: &PgPool, request: &BackfillRequest) -> Result<i64, StoreError> {
    let wrong = |text: String| Err(StoreError::Invalid(text));
    if request.entity.is_empty() || request.entity.len() > 255 || request.entity.contains('\0') {
        return wrong("name a table, as public.orders, of at most 255 bytes".to_owned());
    }
    if request.filters.len() > MAX_FILTERS {
        return wrong(format!("there may be {MAX_FILTERS} filters at most"));
    }
    if let Some(filter) = request
        .filters
        .iter()
        .find(|one| one.known_operator().is_none())
    {
        let operator = &filter.operator;
        return wrong(format!(
            "a filter compares by {operator:?}; write one of = != < <= > >="
        ));
    }
    if request
        .rate
        .is_some_and(|rate| rate == 0 || rate > MAX_RATE)
    {
        return wrong(format!("the rate is 1 to {MAX_RATE} rows per second"));
    }
    sqlx::query(
        "delete from observer.backfill
         where listener = $1 and not is_initial and finished_at < clock_timestamp() - $2",
    )
    .bind(&request.listener)
    .bind(interval(KEPT))
    .execute(pool)
    .await?;
    let id = sqlx::query_scalar(
        "insert into observer.backfill (listener, entity, observer, filters, rate)
         select $1, $2, $3, $4::json, $5
         where (select count(*) from observer.backfill
                where listener = $1 and state in ('Pending', 'Running')) < $6
         returning id",
    )
    .bind(&request.listener)
    .bind(&request.entity)
    .bind(&request.observer)
    .bind(serde_json::json!(request.filters).to_string())
    .bind(
        request
            .rate
            .map(|rate| i32::try_from(rate).unwrap_or(i32::MAX)),
    )
    .bind(MAX_UNFINISHED)
    .fetch_optional(pool)
    .await?;
    id.ok_or(StoreError::TooMany)
}

/// Starts the backfills of a listener that has never run, once for each table, in the transaction of its first
/// checkpoints.
pub(crate) async fn start_initial(
    connection: &mut PgConnection,
    listener: &str,
    entities: &[String],
) -> Result<(), sqlx::Error> {
    sqlx::query(
        "insert into observer.backfill (listener, entity, is_initial)
         select $1, entity, true from unnest($2::text[]) with ordinality as e (entity, n) order by n
         on conflict do nothing",
    )
    .bind(listener)
    .bind(entities)
    .execute(connection)
    .await
    .map(drop)
}

/// Lists the backfills of a listener, the newest first; one of them where an id is given.
pub async fn list(
    pool: &PgPool,
    listener: &str,
    id: Option<i64>,
) -> Result<Vec<Backfill>, sqlx::Error> {
    let sql = format!(
        "select {COLUMNS} from observer.backfill
         where listener = $1 and ($2::bigint is null or id = $2) order by id desc limit {MAX_UNFINISHED}"
    );
    let rows = sqlx::query(sqlx::AssertSqlSafe(sql))
        .bind(listener)
        .bind(id)
        .fetch_all(pool)
        .await?;
    rows.iter().map(backfill).collect()
}

/// Cancels a backfill; what of it is in the change log is still delivered.
pub async fn cancel(pool: &PgPool, listener: &str, id: i64) -> Result<Change, sqlx::Error> {
    let sql = "update observer.backfill set state = 'Cancelled', finished_at = clock_timestamp()
               where listener = $1 and id = $2 and state in ('Pending', 'Running')";
    change(pool, sql, listener, id).await
}

/// Lets a backfill that was cancelled or has failed go on after the last row that is in the change log.
pub async fn resume(pool: &PgPool, listener: &str, id: i64) -> Result<Change, sqlx::Error> {
    let sql = "update observer.backfill set state = 'Pending', finished_at = null, error = null
               where listener = $1 and id = $2 and state in ('Cancelled', 'Failed')";
    change(pool, sql, listener, id).await
}

async fn change(
    pool: &PgPool,
    sql: &'static str,
    listener: &str,
    id: i64,
) -> Result<Change, sqlx::Error> {
    for _ in 0..3 {
        match sqlx::query(sql).bind(listener).bind(id).execute(pool).await {
            Ok(done) if done.rows_affected() > 0 => return Ok(Change::Done),
            Ok(_) => break,
            // The page that is being written has moved it on.
            Err(error) if has_code(&error, &["40001"]) => {}
            Err(error) => return Err(error),
        }
    }
    let found = list(pool, listener, Some(id)).await?;
    Ok(found
        .first()
        .map_or(Change::Missing, |one| Change::Already(one.state)))
}
