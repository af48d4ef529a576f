//! Events that the change log still holds, by filter or by id.

use std::sync::Arc;

use ::queue::sql_transaction;
use chrono::{DateTime, Utc};
use crds::config::Operation;
use sqlx::postgres::PgRow;
use sqlx::{PgPool, Row};

use crate::capture::change_log::{id_prefix, image, operation, trace};
use crate::dead_letters::replay::letter;
use crate::delivery::event::MAX_EVENT_BYTES;
use crate::delivery::event::{self, Event};

/// Timeout of a statement that looks for events: a filter that few events match may make it read the
/// whole log.
const STATEMENT_TIMEOUT: &str = "30s";

/// SQLSTATE of a statement that was cancelled, by its timeout or by somebody.
const QUERY_CANCELED: &str = "57014";

/// Maximum bytes of the images that one list reads; the events beyond have none.
const MAX_LIST_BYTES: i64 = 32 * 1024 * 1024;

/// Why events could not be found.
#[derive(Debug, thiserror::Error)]
pub enum EventsError {
    /// The database could not be asked, or refused.
    #[error("cannot read the change log: {}", ::queue::describe_error(.0))]
    Database(#[source] sqlx::Error),
    /// The statement took too long.
    #[error(
        "few events match, and looking through the whole change log takes longer than {STATEMENT_TIMEOUT}: give a \
         narrower time with --from and --to"
    )]
    TooSlow,
    /// The id is not one of an event.
    #[error(
        "`{0}` is no event id: write one as receivers get it, such as 3c5bf38d-140-6615e1afaa36c (a `webhook-id` does \
         too), or the number in its middle"
    )]
    NotAnId(String),
    /// The log holds something that this program does not know.
    #[error(transparent)]
    Log(#[from] crate::capture::change_log::LogError),
}

impl From<sqlx::Error> for EventsError {
    fn from(error: sqlx::Error) -> Self {
        let code = error
            .as_database_error()
            .and_then(sqlx::error::DatabaseError::code);
        if code.as_deref() == Some(QUERY_CANCELED) {
            return Self::TooSlow;
        }
        Self::Database(error)
    }
}

/// Filter of events; the default matches all.
#[derive(Clone, Debug, Default)]
pub struct EventFilter {
    /// Only events of this entity.
    pub entity: Option<String>,
    /// Only events of this key.
    pub key: Option<String>,
    /// Only events of this tenant.
    pub tenant: Option<String>,
    /// Only these operations; all where empty.
    pub operations: Vec<Operation>,
    /// Only events of transactions that began at this time or later.
    pub from: Option<DateTime<Utc>>,
    /// Only events of transactions that began before this time.
    pub to: Option<DateTime<Utc>>,
}

impl EventFilter {
    /// Whether an event matches.
    #[must_use]
    pub fn matches(&self, event: &Event) -> bool {
        let is = |wanted: &Option<String>, found: Option<&str>| {
            wanted.as_deref().is_none_or(|wanted| Some(wanted) == found)
        };
        is(&self.entity, Some(&event.entity))
            && is(&self.key, event.key.as_deref())
            && is(&self.tenant, event.tenant.as_deref())
            && (self.operations.is_empty() || self.operations.contains(&event.operation))
            && self.from.is_none_or(|from| event.occurred_at >= from)
            && self.to.is_none_or(|to| event.occurred_at < to)
    }
}

/// How an event is named by who looks for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventId {
    log_id: i64,
    /// The whole id, where it was given.
    whole: Option<String>,
}

impl EventId {
    /// Returns the whole id, where it was given.
    #[must_use]
    pub fn whole(&self) -> Option<&str> {
        self.whole.as_deref()
    }
}

impl std::str::FromStr for EventId {
    type Err = EventsError;

    /// Parses an event's id, a delivery's id, which begins with it, or an event's number in the log.
    fn from_str(text: &str) -> Result<Self, EventsError> {
        let wrong = || EventsError::NotAnId(text.chars().take(80).collect());
        if let Ok(log_id) = text.parse() {
            return Ok(Self {
                log_id,
                whole: None,
            });
        }
        let whole = text.split('.').next().unwrap_or_default();
        let mut parts = whole.split('-');
        let (log, number, time) = (parts.next(), parts.next(), parts.next());
        let is_hex = |text: Option<&str>| {
            text.is_some_and(|text| {
                !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_hexdigit())
            })
        };
        let log_id = number.and_then(|number| number.parse().ok());
        match log_id {
            Some(log_id) if parts.next().is_none() && is_hex(log) && is_hex(time) => Ok(Self {
                log_id,
                whole: Some(whole.to_owned()),
            }),
            _ => Err(wrong()),
        }
    }
}

/// Columns of an event; images only where they are not too long in all.
const COLUMNS: &str = "id, hash, operation, entity, key, tenant, occurred_at,
    case when bytes <= $1 then old::text end, case when bytes <= $1 then new::text end,
    traceparent";

/// Returns the newest events that match a filter and whose ids come before `before`, the newest first.
pub async fn list(
    pool: &PgPool,
    filter: &EventFilter,
    before: i64,
    limit: u32,
) -> Result<Vec<Event>, EventsError> {
    let sql = format!(
        "select {COLUMNS}
         from (select *, sum(size::bigint) over (order by id desc) as bytes
               from (select * from observer.change_log
                     where id < $2 and ($3::text is null or entity = $3) and ($4::text is null or key = $4)
                         and ($5::text is null or tenant = $5)
                         and (cardinality($6::text[]) = 0 or operation::text = any ($6))
                         and ($7::timestamptz is null or occurred_at >= $7)
                         and ($8::timestamptz is null or occurred_at < $8)
                     order by id desc limit $9) newest) newest
         order by id desc"
    );
    let operations: Vec<&str> = filter.operations.iter().map(|one| letter(*one)).collect();
    let mut transaction = sql_transaction::begin(pool).await?;
    // A setting takes no parameter.
    let timeout = format!("set local statement_timeout = '{STATEMENT_TIMEOUT}'");
    sqlx::query(sqlx::AssertSqlSafe(timeout))
        .execute(&mut *transaction)
        .await?;
    let rows = sqlx::query(sqlx::AssertSqlSafe(sql))
        .bind(MAX_LIST_BYTES)
        .bind(before)
        .bind(&filter.entity)
        .bind(&filter.key)
        .bind(&filter.tenant)
        .bind(operations)
        .bind(filter.from)
        .bind(filter.to)
        .bind(i64::from(limit))
        .fetch_all(&mut *transaction)
        .await?;
    transaction.rollback().await?;
    let log = id_prefix(pool).await?;
    rows.iter().map(|row| event(&log, row)).collect()
}

/// Returns the event of that id, if the log still holds it. Its images are left out where they are longer
/// than what listeners deliver.
pub async fn find(pool: &PgPool, id: &EventId) -> Result<Option<Event>, EventsError> {
    find_of_tenant(pool, id, None).await
}

/// Returns the event of that id as [`find`] does, if it is of this tenant where one is given.
pub async fn find_of_tenant(
    pool: &PgPool,
    id: &EventId,
    tenant: Option<&str>,
) -> Result<Option<Event>, EventsError> {
    let sql = format!(
        "select {COLUMNS} from (select *, size as bytes from observer.change_log
                                where id = $2 and ($3::text is null or tenant = $3)) found"
    );
    let row = sqlx::query(sqlx::AssertSqlSafe(sql))
        .bind(MAX_EVENT_BYTES)
        .bind(id.log_id)
        .bind(tenant)
        .fetch_optional(pool)
        .await?;
    let Some(row) = row else { return Ok(None) };
    let found = event(&id_prefix(pool).await?, &row)?;
    let is_it = id.whole.as_ref().is_none_or(|whole| *whole == found.id);
    Ok(is_it.then_some(found))
}

/// Reads an event from a row of [`COLUMNS`].
pub(super) fn event(log: &str, row: &PgRow) -> Result<Event, EventsError> {
    let (log_id, hash): (i64, i32) = (row.try_get(0)?, row.try_get(1)?);
    let occurred_at = row.try_get(6)?;
    Ok(Event {
        log_id,
        id: event::id(log, log_id, occurred_at),
        hash: hash.unsigned_abs(),
        entity: Arc::from(row.try_get::<&str, _>(3)?),
        operation: operation(log_id, row.try_get(2)?)?,
        key: row.try_get(4)?,
        tenant: row.try_get(5)?,
        occurred_at,
        old: image(row, 7)?,
        new: image(row, 8)?,
        trace: trace(row, 9)?,
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]

    use super::*;

    fn parsed(text: &str) -> Option<(i64, Option<String>)> {
        let id: EventId = text.parse().ok()?;
        Some((id.log_id, id.whole))
    }

    #[test]
    fn event_ids_are_whole_or_of_deliveries_or_numbers() {
        let whole = || Some("3c5bf38d-140-6615e1afaa36c".to_owned());
        assert_eq!(parsed("3c5bf38d-140-6615e1afaa36c"), Some((140, whole())));
        assert_eq!(
            parsed("3c5bf38d-140-6615e1afaa36c.f910b3a3ad0d74fe"),
            Some((140, whole()))
        );
        assert_eq!(parsed("140"), Some((140, None)));
        for wrong in [
            "",
            "-",
            "a-b-c",
            "3c5bf38d-140",
            "3c5bf38d-140-zz",
            "1-2-3-4",
            "batch.1",
        ] {
            assert_eq!(parsed(wrong), None, "{wrong}");
        }
    }
}
