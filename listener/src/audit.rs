//! The audit of the HTTP API: who changed what, when, and what came of it. This module owns `observer.audit`.
//!
//! An entry is written before its change begins, so that none goes unrecorded, and completed when it is over.

use std::time::Duration;

use chrono::{DateTime, Utc};
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::{Value, json};
use sqlx::PgPool;
use sqlx::types::Json;

use crate::database;

/// How long entries are kept.
const RETENTION: Duration = Duration::from_hours(90 * 24);

/// Most entries that one statement deletes.
const DELETE_LIMIT: i64 = 1000;

/// Maximum number of bytes of a request that is kept as it is.
const MAX_REQUEST_BYTES: usize = 4096;

/// Maximum number of characters of an error.
const MAX_ERROR_CHARS: usize = 1000;

/// A change that begins.
#[derive(Debug)]
pub(crate) struct NewEntry<'a> {
    /// The listener.
    pub(crate) listener: &'a str,
    /// Name of the token or of the user.
    pub(crate) actor: &'a str,
    /// The only tenant that the actor may change.
    pub(crate) tenant: Option<&'a str>,
    /// Id of the endpoint.
    pub(crate) operation: &'a str,
    /// Body of the request.
    pub(crate) request: &'a Value,
}

/// An entry whose change is not over.
#[derive(Debug)]
#[must_use]
pub(crate) struct OpenEntry(i64);

/// A change that was made, or tried.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(deny_unknown_fields)]
pub(crate) struct AuditEntry {
    /// Its number.
    pub(crate) id: i64,
    /// When it began.
    #[schemars(with = "String", extend("format" = "date-time"))]
    at: DateTime<Utc>,
    /// Name of the token, or of the user of the cluster.
    actor: String,
    /// The tenant of the token; nothing where it is for all.
    tenant: Option<String>,
    /// The change, as this document names it.
    operation: String,
    /// The body of the request. One of more than 4 KiB is cut down to its number of ids or of bytes.
    request: Value,
    /// How many were changed, where that is known.
    count: Option<i64>,
    /// Why it failed.
    error: Option<String>,
    /// When it was over. Nothing where nobody saw its end: a process ended, the client went away, or it took too
    /// long.
    #[schemars(with = "Option<String>", extend("format" = "date-time"))]
    finished_at: Option<DateTime<Utc>>,
}

/// What entries have in common.
#[derive(Debug, Default)]
pub(crate) struct AuditFilter {
    /// The listener.
    pub(crate) listener: String,
    /// Id of the endpoint.
    pub(crate) operation: Option<String>,
    /// Name of the token or of the user.
    pub(crate) actor: Option<String>,
    /// Begun at this time or later.
    pub(crate) since: Option<DateTime<Utc>>,
    /// Begun before this time.
    pub(crate) until: Option<DateTime<Utc>>,
}

impl OpenEntry {
    /// Writes the entry of a change that begins.
    pub(crate) async fn begin(pool: &PgPool, entry: &NewEntry<'_>) -> Result<Self, sqlx::Error> {
        let id = sqlx::query_scalar(
            "insert into observer.audit (listener, actor, tenant, operation, request)
             values ($1, $2, $3, $4, $5::json) returning id",
        )
        .bind(entry.listener)
        .bind(entry.actor)
        .bind(entry.tenant)
        .bind(entry.operation)
        // As text: by itself it would be taken for jsonb.
        .bind(bounded(entry.request).to_string())
        .fetch_one(pool)
        .await?;
        Ok(Self(id))
    }

    /// Completes it with how many were changed, where that is known, or with an error.
    pub(crate) async fn finish(
        self,
        pool: &PgPool,
        result: Result<Option<u64>, &str>,
    ) -> Result<(), sqlx::Error> {
        let (count, error) = match result {
            Ok(count) => (count, None),
            Err(error) => (None, Some(kept(error))),
        };
        sqlx::query(
            "update observer.audit set count = $2, error = $3, finished_at = clock_timestamp() where id = $1",
        )
        .bind(self.0)
        .bind(count.map(|count| i64::try_from(count).unwrap_or(i64::MAX)))
        .bind(error)
        .execute(pool)
        .await?;
        Ok(())
    }
}

/// Returns what is kept of an error, which may repeat what was asked for.
fn kept(error: &str) -> String {
    let kept = error.chars().take(MAX_ERROR_CHARS);
    kept.map(|one| if one == '\0' { '\u{fffd}' } else { one })
        .collect()
}

/// Returns what is kept of a request.
fn bounded(request: &Value) -> Value {
    let length = request.to_string().len();
    if length <= MAX_REQUEST_BYTES {
        return request.clone();
    }
    match request.get("ids").and_then(Value::as_array) {
        Some(ids) => json!({ "ids": ids.len() }),
        None => json!({ "bytes": length }),
    }
}

/// A row of the list.
type Row = (
    i64,
    DateTime<Utc>,
    String,
    Option<String>,
    String,
    Json<Value>,
    Option<i64>,
    Option<String>,
    Option<DateTime<Utc>>,
);

/// Lists entries with a number below `before`, the newest first.
pub(crate) async fn list(
    pool: &PgPool,
    filter: &AuditFilter,
    before: i64,
    limit: i64,
) -> Result<Vec<AuditEntry>, sqlx::Error> {
    let rows: Vec<Row> = sqlx::query_as(
        "select id, at, actor, tenant, operation, request, count, error, finished_at
         from observer.audit
         where listener = $1 and id < $2
             and ($3::text is null or operation = $3) and ($4::text is null or actor = $4)
             and ($5::timestamptz is null or at >= $5) and ($6::timestamptz is null or at < $6)
         order by id desc limit $7",
    )
    .bind(&filter.listener)
    .bind(before)
    .bind(&filter.operation)
    .bind(&filter.actor)
    .bind(filter.since)
    .bind(filter.until)
    .bind(limit)
    .fetch_all(pool)
    .await?;
    let entry = |row: Row| {
        let (id, at, actor, tenant, operation, Json(request), count, error, finished_at) = row;
        AuditEntry {
            id,
            at,
            actor,
            tenant,
            operation,
            request,
            count,
            error,
            finished_at,
        }
    };
    Ok(rows.into_iter().map(entry).collect())
}

/// Deletes the entries of a listener that are older than is kept, some at a time.
pub(crate) async fn purge(pool: &PgPool, listener: &str) -> Result<(), sqlx::Error> {
    loop {
        let deleted = sqlx::query(
            "delete from observer.audit where id = any(array(
                 select id from observer.audit
                 where listener = $1 and at < clock_timestamp() - $2 order by at limit $3))",
        )
        .bind(listener)
        .bind(database::interval(RETENTION))
        .bind(DELETE_LIMIT)
        .execute(pool)
        .await?;
        if deleted.rows_affected() == 0 {
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_request_is_cut_down_to_a_number() {
        let short = json!({ "ids": [1, 2], "text": "a\0" });
        assert_eq!(bounded(&short), short);
        let many = json!({ "ids": (0..5000).collect::<Vec<_>>() });
        assert_eq!(bounded(&many), json!({ "ids": 5000 }));
        let long = json!({ "entity": "a".repeat(5000) });
        assert_eq!(bounded(&long), json!({ "bytes": 5013 }));
    }

    #[test]
    fn error_is_kept_as_text_of_bounded_length() {
        assert_eq!(kept("no action a\0"), "no action a\u{fffd}");
        assert_eq!(kept(&"ä".repeat(5000)), "ä".repeat(MAX_ERROR_CHARS));
    }
}
