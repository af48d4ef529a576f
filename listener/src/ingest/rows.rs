//! Rows that a source appends to the change log.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use sqlx::Postgres;
use sqlx::postgres::PgArguments;
use sqlx::query::QueryScalar;

use crate::trace::context::TraceContext;

/// Appends the rows that [`RowBatch::bind`] binds, in order, if `own` has a row. The update that makes `own` takes the
/// lock of the source's row and draws the transaction's xid before the first id is drawn, which readers rely on.
pub(super) const INSERT_SQL: &str = "
    insert into observer.change_log
        (partition_no, hash, size, operation, entity, key, tenant, occurred_at, old, new, traceparent)
    select (select partition_no from observer.log_partition_state),
           observer.hash_of(tenant, entity, key),
           coalesce(octet_length(old), 0) + coalesce(octet_length(new), 0),
           operation::\"char\", entity, key, tenant, occurred_at, old::json, new::json, traceparent
    from unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::timestamptz[], $6::text[], $7::text[],
                $8::text[])
        with ordinality as r (operation, entity, key, tenant, occurred_at, old, new, traceparent, n)
    where exists (select from own)
    order by n";

/// Rows to append to the change log, in order.
#[derive(Debug, Default)]
pub(crate) struct RowBatch {
    operations: Vec<String>,
    entities: Vec<String>,
    keys: Vec<Option<String>>,
    tenants: Vec<Option<String>>,
    occurred_at: Vec<DateTime<Utc>>,
    olds: Vec<Option<String>>,
    news: Vec<Option<String>>,
    traces: Vec<Option<String>>,
    bytes: usize,
}

/// Operation, key and images of a row.
#[cfg(test)]
pub(crate) type RowTexts = (String, Option<String>, Option<String>, Option<String>);

/// A row to append.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LogRow {
    /// Code of the operation.
    pub(crate) operation: char,
    /// The entity.
    pub(crate) entity: Arc<str>,
    /// Its key.
    pub(crate) key: Option<String>,
    /// Its tenant.
    pub(crate) tenant: Option<String>,
    /// When it was committed, or written to its topic.
    pub(crate) occurred_at: DateTime<Utc>,
    /// The image before, as JSON.
    pub(crate) old: Option<String>,
    /// The image after, as JSON.
    pub(crate) new: Option<String>,
    /// The trace that its writer gave it.
    pub(crate) trace: Option<TraceContext>,
}

/// Most levels of JSON that Postgres reads for sure, however small its stack.
const MAX_DEPTH: usize = 1000;

impl LogRow {
    /// Whether Postgres can store it, where the row comes from elsewhere: no text has a NUL character, and no image is
    /// nested too deeply.
    pub(super) fn is_storable(&self) -> bool {
        let texts = [
            Some(&*self.entity),
            self.key.as_deref(),
            self.tenant.as_deref(),
        ];
        let images = [self.old.as_deref(), self.new.as_deref()];
        !texts.into_iter().flatten().any(|text| text.contains('\0'))
            && images
                .into_iter()
                .flatten()
                .all(|json| depth(json) <= MAX_DEPTH)
    }
}

/// Levels of arrays and objects in a JSON text.
fn depth(json: &str) -> usize {
    let (mut depth, mut deepest) = (0_usize, 0);
    let (mut is_text, mut is_escaped) = (false, false);
    for byte in json.bytes() {
        match byte {
            _ if is_escaped => is_escaped = false,
            b'\\' if is_text => is_escaped = true,
            b'"' => is_text = !is_text,
            b'[' | b'{' if !is_text => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            b']' | b'}' if !is_text => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    deepest
}

impl RowBatch {
    fn push(&mut self, row: LogRow) {
        let size = |text: &Option<String>| text.as_ref().map_or(0, String::len);
        self.bytes += size(&row.old) + size(&row.new) + size(&row.key) + row.entity.len();
        self.operations.push(row.operation.to_string());
        self.entities.push(row.entity.to_string());
        self.keys.push(row.key);
        self.tenants.push(row.tenant);
        self.occurred_at.push(row.occurred_at);
        self.olds.push(row.old);
        self.news.push(row.new);
        self.traces.push(row.trace.map(|trace| trace.to_string()));
    }

    /// Adds rows.
    pub(crate) fn extend(&mut self, rows: impl IntoIterator<Item = LogRow>) {
        for row in rows {
            self.push(row);
        }
    }

    /// Number of rows.
    pub(crate) fn len(&self) -> usize {
        self.operations.len()
    }

    /// Bytes of their texts.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Binds the rows as the first eight values of a statement with [`INSERT_SQL`].
    pub(super) fn bind<O>(
        self,
        statement: QueryScalar<'_, Postgres, O, PgArguments>,
    ) -> QueryScalar<'_, Postgres, O, PgArguments>
    where
        (O,): for<'r> sqlx::FromRow<'r, sqlx::postgres::PgRow>,
    {
        statement
            .bind(self.operations)
            .bind(self.entities)
            .bind(self.keys)
            .bind(self.tenants)
            .bind(self.occurred_at)
            .bind(self.olds)
            .bind(self.news)
            .bind(self.traces)
    }

    /// Operations, keys and images of the rows.
    #[cfg(test)]
    pub(crate) fn rows(&self) -> Vec<RowTexts> {
        (0..self.len())
            .map(|n| {
                let (old, new) = (self.olds[n].clone(), self.news[n].clone());
                (self.operations[n].clone(), self.keys[n].clone(), old, new)
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::depth;

    #[test]
    fn brackets_in_texts_are_no_levels() {
        assert_eq!(depth("7"), 0);
        assert_eq!(depth(r#"{"a[[": [1, {"b\"[": "]"}], "c": []}"#), 3);
    }
}
