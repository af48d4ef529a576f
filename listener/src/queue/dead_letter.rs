//! Dead letters: actions given up on, kept with their event and their history until someone
//! redrives or drops them. This module owns `observer.dead_letter`.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use crds::config::Operation;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use sqlx::postgres::PgRow;
use sqlx::{PgConnection, PgPool, Row};

use crate::actions::Failure;
use crate::event::Event;
use crate::source::log::Part;

/// Most attempts that a history keeps, the latest ones.
pub const MAX_HISTORY: usize = 20;

/// One attempt that failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attempt {
    /// When it ended.
    pub at: DateTime<Utc>,
    /// Kind of the failure.
    pub kind: String,
    /// What happened.
    pub error: String,
    /// HTTP status, where there was one.
    pub status: Option<u16>,
}

impl Attempt {
    /// Notes a failure. Postgres' text holds no NUL, so none is kept.
    #[must_use]
    pub fn new(at: DateTime<Utc>, failure: &Failure) -> Self {
        Self {
            at,
            kind: failure.kind.as_str().to_owned(),
            error: failure.message.replace('\0', ""),
            status: failure.status,
        }
    }
}

/// Keeps an attempt among the latest ones.
pub fn note(history: &mut Vec<Attempt>, attempt: Attempt) {
    let surplus = (history.len() + 1).saturating_sub(MAX_HISTORY);
    history.drain(..surplus);
    history.push(attempt);
}

/// A dead letter about to be written.
#[derive(Clone, Debug)]
pub struct Letter {
    /// The event.
    pub event: Arc<Event>,
    /// The observer.
    pub observer: Arc<str>,
    /// The action's name.
    pub action: Arc<str>,
    /// Attempts made in all.
    pub attempts: u32,
    /// The latest of them, the last one last; never empty.
    pub history: Vec<Attempt>,
}

/// What came of redriving a dead letter.
#[derive(Clone, Debug)]
pub enum Verdict {
    /// It is settled: it took effect, or its condition no longer holds.
    Settled(i64),
    /// It failed again.
    Failed {
        /// Its id.
        id: i64,
        /// Attempts made by this redrive.
        attempts: u32,
        /// The latest of them.
        history: Vec<Attempt>,
    },
}

/// A dead letter as `dlq list` and `dlq show` give it.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Stored {
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
pub struct Full {
    /// What `list` shows.
    #[serde(flatten)]
    pub stored: Stored,
    /// The row before.
    pub old: Option<Box<RawValue>>,
    /// The row after.
    pub new: Option<Box<RawValue>>,
    /// The latest attempts, the last one last.
    pub history: Box<RawValue>,
}

/// A dead letter to try again.
#[derive(Clone, Debug)]
pub struct Redrive {
    /// Its id.
    pub id: i64,
    /// The event.
    pub event: Arc<Event>,
    /// The observer.
    pub observer: String,
    /// The action's name.
    pub action: String,
    /// Kind of the failure it was given up for.
    pub error_kind: String,
    /// Attempts made so far.
    pub attempts: u32,
    /// The latest of them, the last one last.
    pub history: Vec<Attempt>,
}

/// Which dead letters a command means.
#[derive(Clone, Debug, Default)]
pub struct Selection {
    /// These ids.
    pub ids: Option<Vec<i64>>,
    /// Those of this listener.
    pub listener: Option<String>,
    /// Those of this observer.
    pub observer: Option<String>,
    /// Those of this kind of failure.
    pub kind: Option<String>,
}

const STORED: &str =
    "id, listener, event_id, observer, action, entity, operation, key, tenant, occurred_at,
    attempts, error_kind, error, status, created_at, redrive_requested_at";

const SELECTED: &str =
    "($1::bigint[] is null or id = any($1)) and ($2::text is null or listener = $2)
    and ($3::text is null or observer = $3) and ($4::text is null or error_kind = $4)";

/// Writes dead letters within the transaction that lets their positions pass. One that is
/// there already stays as it is.
pub async fn insert(
    tx: &mut PgConnection,
    listener: &str,
    letters: impl Iterator<Item = &Letter> + Send,
) -> Result<(), sqlx::Error> {
    for letter in letters {
        let event = &letter.event;
        let last = letter.history.last();
        sqlx::query(
            "insert into observer.dead_letter
                 (listener, event_id, log_id, observer, action, entity, operation, key, tenant, hash, occurred_at,
                  old, new, attempts, error_kind, error, status, history)
             values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12::json, $13::json, $14, $15, $16, $17, $18::json)
             -- A redriven one is still there where the process died before that was saved; its
             -- job may not be added under the same number again.
             on conflict (listener, event_id, observer, action) do update
             set id = default, redrive_requested_at = null, attempts = excluded.attempts,
                 error_kind = excluded.error_kind, error = excluded.error, status = excluded.status,
                 history = excluded.history
             where dead_letter.redrive_requested_at is not null",
        )
        .bind(listener)
        .bind(&event.id)
        .bind(event.log_id)
        .bind(&*letter.observer)
        .bind(&*letter.action)
        .bind(&*event.entity)
        .bind(event.operation.as_str())
        .bind(&event.key)
        .bind(&event.tenant)
        .bind(i32::try_from(event.hash).unwrap_or(i32::MAX))
        .bind(event.occurred_at)
        .bind(event.old.as_deref().map(RawValue::get))
        .bind(event.new.as_deref().map(RawValue::get))
        .bind(i32::try_from(letter.attempts).unwrap_or(i32::MAX))
        .bind(last.map_or("event", |last| last.kind.as_str()))
        .bind(last.map_or("", |last| last.error.as_str()))
        .bind(last.and_then(|last| last.status).and_then(|status| i16::try_from(status).ok()))
        .bind(json(&letter.history))
        .execute(&mut *tx)
        .await?;
    }
    Ok(())
}

/// Writes what came of redriven dead letters.
pub async fn settle(
    tx: &mut PgConnection,
    listener: &str,
    verdicts: impl Iterator<Item = &Verdict> + Send,
) -> Result<(), sqlx::Error> {
    for verdict in verdicts {
        match verdict {
            Verdict::Settled(id) => {
                sqlx::query("delete from observer.dead_letter where listener = $1 and id = $2")
                    .bind(listener)
                    .bind(id)
                    .execute(&mut *tx)
                    .await?;
            }
            Verdict::Failed {
                id,
                attempts,
                history,
            } => {
                let last = history.last();
                sqlx::query(
                    "update observer.dead_letter
                     set redrive_requested_at = null, attempts = attempts + $3,
                         error_kind = coalesce($4, error_kind), error = coalesce($5, error), status = $6,
                         history = (select coalesce(json_agg(attempt order by place), '[]')
                                    from (select attempt, row_number() over () as place
                                          from (select json_array_elements(history) as attempt
                                                union all select json_array_elements($7::json)) every_attempt) numbered
                                    where place > json_array_length(history) + json_array_length($7::json) - $8)
                     where listener = $1 and id = $2 and redrive_requested_at is not null",
                )
                .bind(listener)
                .bind(id)
                .bind(i32::try_from(*attempts).unwrap_or(i32::MAX))
                .bind(last.map(|last| last.kind.as_str()))
                .bind(last.map(|last| last.error.as_str()))
                .bind(last.and_then(|last| last.status).and_then(|status| i16::try_from(status).ok()))
                .bind(json(history))
                .bind(i32::try_from(MAX_HISTORY).unwrap_or(i32::MAX))
                .execute(&mut *tx)
                .await?;
            }
        }
    }
    Ok(())
}

/// Dead letters of some shards whose redrive was asked for, in the order of the log.
pub async fn requested(
    pool: &PgPool,
    listener: &str,
    part: Part<'_>,
    besides: &[i64],
    most: i64,
) -> Result<Vec<Redrive>, sqlx::Error> {
    let rows = sqlx::query(
        "select id, event_id, log_id, observer, action, entity, operation, key, tenant, hash, occurred_at,
                old::text, new::text, error_kind, attempts, history::text
         from observer.dead_letter
         where listener = $1 and redrive_requested_at is not null and id <> all($2)
             and hash % $4 = any($5)
         order by log_id, id limit $3",
    )
    .bind(listener)
    .bind(besides)
    .bind(most)
    .bind(i32::from(part.of))
    .bind(part.remainders())
    .fetch_all(pool)
    .await?;
    rows.iter().map(redrive).collect()
}

fn redrive(row: &PgRow) -> Result<Redrive, sqlx::Error> {
    let hash: i32 = row.try_get("hash")?;
    let operation: &str = row.try_get("operation")?;
    let event = Event {
        log_id: row.try_get("log_id")?,
        id: row.try_get("event_id")?,
        hash: hash.unsigned_abs(),
        entity: Arc::from(row.try_get::<&str, _>("entity")?),
        operation: Operation::ALL
            .into_iter()
            .find(|known| known.as_str() == operation)
            .unwrap_or(Operation::Custom),
        key: row.try_get("key")?,
        tenant: row.try_get("tenant")?,
        occurred_at: row.try_get("occurred_at")?,
        old: raw(row.try_get("old")?)?,
        new: raw(row.try_get("new")?)?,
    };
    Ok(Redrive {
        id: row.try_get("id")?,
        event: Arc::new(event),
        observer: row.try_get("observer")?,
        action: row.try_get("action")?,
        error_kind: row.try_get("error_kind")?,
        attempts: row.try_get::<i32, _>("attempts")?.unsigned_abs(),
        history: serde_json::from_str(row.try_get("history")?)
            .map_err(|error| sqlx::Error::Decode(error.into()))?,
    })
}

/// The newest dead letters of a selection.
pub async fn list(pool: &PgPool, what: &Selection, most: i64) -> Result<Vec<Stored>, sqlx::Error> {
    let sql = format!(
        "select {STORED} from observer.dead_letter where {SELECTED} order by id desc limit $5"
    );
    let rows = bind(&sql, what).bind(most).fetch_all(pool).await?;
    rows.iter().map(stored).collect()
}

/// How many there are in a selection.
pub async fn count(pool: &PgPool, what: &Selection) -> Result<i64, sqlx::Error> {
    let sql = format!("select count(*) from observer.dead_letter where {SELECTED}");
    bind(&sql, what).fetch_one(pool).await?.try_get(0)
}

/// One dead letter in full.
pub async fn show(pool: &PgPool, id: i64) -> Result<Option<Full>, sqlx::Error> {
    let sql = format!(
        "select {STORED}, old::text, new::text, history::text from observer.dead_letter where id = $1"
    );
    let row = sqlx::query(sqlx::AssertSqlSafe(sql))
        .bind(id)
        .fetch_optional(pool)
        .await?;
    let Some(row) = row else { return Ok(None) };
    Ok(Some(Full {
        stored: stored(&row)?,
        old: raw(row.try_get("old")?)?,
        new: raw(row.try_get("new")?)?,
        history: raw(Some(row.try_get("history")?))?.unwrap_or_default(),
    }))
}

/// Asks the listener to try a selection again. Returns how many were not already waiting for it.
pub async fn redrive_selected(pool: &PgPool, what: &Selection) -> Result<u64, sqlx::Error> {
    let sql = format!(
        "update observer.dead_letter set redrive_requested_at = clock_timestamp()
         where redrive_requested_at is null and {SELECTED}"
    );
    Ok(bind(&sql, what).execute(pool).await?.rows_affected())
}

/// Drops a selection for good. Returns how many.
pub async fn drop_selected(pool: &PgPool, what: &Selection) -> Result<u64, sqlx::Error> {
    let sql = format!("delete from observer.dead_letter where {SELECTED}");
    Ok(bind(&sql, what).execute(pool).await?.rows_affected())
}

type Query<'q> = sqlx::query::Query<'q, sqlx::Postgres, sqlx::postgres::PgArguments>;

/// The statements here are put together from constants; every value is bound.
fn bind<'q>(sql: &str, what: &'q Selection) -> Query<'q> {
    sqlx::query(sqlx::AssertSqlSafe(sql.to_owned()))
        .bind(&what.ids)
        .bind(&what.listener)
        .bind(&what.observer)
        .bind(&what.kind)
}

fn stored(row: &PgRow) -> Result<Stored, sqlx::Error> {
    Ok(Stored {
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

fn raw(text: Option<String>) -> Result<Option<Box<RawValue>>, sqlx::Error> {
    text.map(RawValue::from_string)
        .transpose()
        .map_err(|error| sqlx::Error::Decode(error.into()))
}

fn json(history: &[Attempt]) -> String {
    serde_json::to_string(history).unwrap_or_else(|_| "[]".to_owned())
}
