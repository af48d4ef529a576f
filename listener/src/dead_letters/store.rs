//! Table of dead letters: failed deliveries with their event and history. This module owns
//! `observer.dead_letter`.

use std::sync::Arc;

use crds::config::Operation;
use search::DeliveryState;
use serde_json::value::RawValue;
use sqlx::postgres::PgRow;
use sqlx::{PgConnection, PgPool, Row};

use crate::capture::change_log::ShardFilter;
use crate::delivery::ActionName;
use crate::delivery::attempt::Attempt;
use crate::delivery::event::Event;
use crate::delivery::report::DeliveryReport;
use crate::trace::context::TraceContext;

/// Dead letter to be written.
#[derive(Clone, Debug)]
pub struct NewDeadLetter {
    /// The event.
    pub event: Arc<Event>,
    /// The observer.
    pub observer: Arc<str>,
    /// The action's name.
    pub action: Arc<str>,
    /// Number of attempts.
    pub attempts: u32,
    /// Latest attempts, the last one last; never empty.
    pub history: Vec<Attempt>,
}

impl NewDeadLetter {
    /// Returns the report of its delivery, once it is written.
    #[must_use]
    pub fn report(&self) -> DeliveryReport {
        DeliveryReport {
            event: Arc::clone(&self.event),
            name: ActionName::new(Arc::clone(&self.observer), Arc::clone(&self.action)),
            replay: None,
            state: DeliveryState::DeadLetter,
            attempts: self.attempts,
            failures: self.history.clone(),
            success: None,
            due_at: None,
            job: None,
        }
    }
}

/// Result of a redrive.
#[derive(Clone, Debug)]
pub enum RedriveResult {
    /// It has become a job, or its condition no longer holds; the dead letter is deleted.
    Settled(i64),
    /// It failed again.
    Failed {
        /// Id of the dead letter.
        id: i64,
        /// Number of attempts of this redrive.
        attempts: u32,
        /// Latest attempts.
        history: Vec<Attempt>,
    },
}

/// Dead letter to redrive.
#[derive(Clone, Debug)]
pub struct Redrive {
    /// Id of the dead letter.
    pub id: i64,
    /// The event.
    pub event: Arc<Event>,
    /// The observer.
    pub observer: String,
    /// The action's name.
    pub action: String,
    /// Kind of the last failure.
    pub error_kind: String,
    /// Number of attempts so far.
    pub attempts: u32,
    /// Latest attempts, the last one last.
    pub history: Vec<Attempt>,
}

/// Writes dead letters in the transaction that commits the positions behind them. Existing ones stay as
/// they are, unless their redrive was requested.
pub async fn insert(
    tx: &mut PgConnection,
    listener: &str,
    letters: impl Iterator<Item = &NewDeadLetter> + Send,
) -> Result<(), sqlx::Error> {
    for letter in letters {
        let event = &letter.event;
        let last = letter.history.last();
        sqlx::query(
            "insert into observer.dead_letter
                 (listener, event_id, log_id, observer, action, entity, operation, key, tenant, hash, occurred_at,
                  old, new, attempts, error_kind, error, status, history, traceparent)
             values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12::json, $13::json, $14, $15, $16, $17, $18::json,
                     $19)
             -- A redriven one still exists if the process died before the checkpoint was committed; its
             -- job must not be added under the same id again.
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
        .bind(event.trace.map(|trace| trace.to_string()))
        .execute(&mut *tx)
        .await?;
    }
    Ok(())
}

/// Writes the results of redrives.
pub async fn finish_redrives(
    tx: &mut PgConnection,
    listener: &str,
    results: impl Iterator<Item = &RedriveResult> + Send,
) -> Result<(), sqlx::Error> {
    for result in results {
        match result {
            RedriveResult::Settled(id) => {
                sqlx::query("delete from observer.dead_letter where listener = $1 and id = $2")
                    .bind(listener)
                    .bind(id)
                    .execute(&mut *tx)
                    .await?;
            }
            RedriveResult::Failed {
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
                .bind(i32::try_from(crate::delivery::attempt::MAX_HISTORY).unwrap_or(i32::MAX))
                .execute(&mut *tx)
                .await?;
            }
        }
    }
    Ok(())
}

/// Returns dead letters of some shards whose redrive was requested, in the order of the change log: at
/// most `limit`, none of `excluded`, and no more than [`admin::MAX_PAGE_BYTES`] of images beyond the first.
pub async fn requested(
    pool: &PgPool,
    listener: &str,
    part: ShardFilter<'_>,
    excluded: &[i64],
    limit: i64,
) -> Result<Vec<Redrive>, sqlx::Error> {
    let rows = sqlx::query(
        "select id, event_id, log_id, observer, action, entity, operation, key, tenant, hash, occurred_at,
                old::text, new::text, error_kind, attempts, history::text, traceparent
         from (select *, sum(coalesce(octet_length(old::text), 0) + coalesce(octet_length(new::text), 0))
                         over (order by log_id, id) as bytes,
                      row_number() over (order by log_id, id) as place
               from (select * from observer.dead_letter
                     where listener = $1 and redrive_requested_at is not null and id <> all($2)
                         and hash % $4 = any($5)
                     order by log_id, id limit $3) part) part
         where place = 1 or bytes <= $6
         order by log_id, id",
    )
    .bind(listener)
    .bind(excluded)
    .bind(limit)
    .bind(i32::from(part.shard_count))
    .bind(part.remainders())
    .bind(super::admin::MAX_PAGE_BYTES)
    .fetch_all(pool)
    .await?;
    rows.iter().map(decode_redrive).collect()
}

fn decode_redrive(row: &PgRow) -> Result<Redrive, sqlx::Error> {
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
        trace: row
            .try_get::<Option<&str>, _>("traceparent")?
            .and_then(TraceContext::parse),
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

pub(super) fn raw(text: Option<String>) -> Result<Option<Box<RawValue>>, sqlx::Error> {
    text.map(RawValue::from_string)
        .transpose()
        .map_err(|error| sqlx::Error::Decode(error.into()))
}

fn json(history: &[Attempt]) -> String {
    serde_json::to_string(history).unwrap_or_else(|_| "[]".to_owned())
}
