//! Writes documents, each merged with what is stored of it.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use sqlx::PgConnection;

use super::tsvector::tsvector;
use super::{PostgresIndex, bounded};
use crate::analysis::fields::IndexedFields;
use crate::document::Document;
use crate::error::SearchError;
use crate::index::{Rejected, WriteReport};

/// Maximum length of a stored document in bytes.
const MAX_DOCUMENT_BYTES: usize = 16 * 1024 * 1024;

/// Maximum length of an id, of a listener's identity and of other names, in bytes.
const MAX_NAME_BYTES: usize = 1024;

/// Maximum number of documents of a transaction, and of bytes if they are more than one.
const MAX_BATCH: usize = 500;
const MAX_BATCH_BYTES: usize = 8 * 1024 * 1024;

/// Maximum number of stored documents that are read at once.
const MAX_MERGED: usize = 64;

/// How often documents are written that others delete at the same time.
const ATTEMPTS: u32 = 3;

impl PostgresIndex {
    pub(super) async fn write_all(
        &self,
        documents: &[Document],
    ) -> Result<WriteReport, SearchError> {
        let mut report = WriteReport::default();
        // Every transaction writes in the order of ids: so none waits for one that waits for it.
        let mut by_id: BTreeMap<(&str, &str), (Document, usize)> = BTreeMap::new();
        for document in documents {
            if let Err(reason) = check(document) {
                let id = document.id.clone();
                report.rejected.push(Rejected { id, reason });
                continue;
            }
            let name = (document.listener.as_str(), document.id.as_str());
            if let Some((merged, count)) = by_id.get_mut(&name) {
                merged.merge(&sorted(document));
                *count += 1;
            } else {
                by_id.insert(name, (sorted(document), 1));
            }
        }
        let mut batch = Batch::default();
        for (document, count) in by_id.into_values() {
            let body = match body(&document) {
                Ok(body) => body,
                Err(reason) => {
                    let id = document.id.clone();
                    report.rejected.push(Rejected { id, reason });
                    continue;
                }
            };
            if batch.is_full(&document, body.len()) {
                report.written += self
                    .write_batch(std::mem::take(&mut batch), &mut report)
                    .await?;
            }
            batch.add(document, body, count);
        }
        if !batch.documents.is_empty() {
            report.written += self.write_batch(batch, &mut report).await?;
        }
        Ok(report)
    }

    async fn write_batch(
        &self,
        batch: Batch,
        report: &mut WriteReport,
    ) -> Result<usize, SearchError> {
        let listener = batch.documents[0].listener.clone();
        let rows: Vec<Row> = batch
            .documents
            .iter()
            .zip(batch.bodies)
            .map(Row::of)
            .collect();
        for _ in 0..ATTEMPTS {
            let written = bounded(self.try_batch(&listener, &batch.documents, &rows));
            if let Some(rejected) = written.await? {
                let lost: usize = batch
                    .documents
                    .iter()
                    .zip(&batch.counts)
                    .filter(|(document, _)| rejected.iter().any(|one| one.id == document.id))
                    .map(|(_, count)| count)
                    .sum();
                report.rejected.extend(rejected);
                return Ok(batch.counts.iter().sum::<usize>() - lost);
            }
        }
        Err(SearchError::Unavailable(
            "documents are removed while they are written".to_owned(),
        ))
    }

    /// Writes documents of a listener, in the order of ids. Returns those that cannot be stored; nothing
    /// where some were removed meanwhile.
    async fn try_batch(
        &self,
        listener: &str,
        documents: &[Document],
        rows: &[Row],
    ) -> Result<Option<Vec<Rejected>>, SearchError> {
        let mut tx = self.begin().await?;
        let inserted = insert(&mut tx, listener, rows).await?;
        let there: Vec<&Document> = documents
            .iter()
            .filter(|document| inserted.binary_search(&document.id).is_err())
            .collect();
        let mut rejected = Vec::new();
        for some in there.chunks(MAX_MERGED) {
            let stored = lock(&mut tx, listener, some).await?;
            if stored.len() != some.len() {
                return Ok(None);
            }
            let mut changed = Vec::new();
            for (mut stored, document) in stored.into_iter().zip(some) {
                if !stored.merge(document) {
                    continue;
                }
                match body(&stored) {
                    Ok(body) => changed.push(Row::of((&stored, body))),
                    Err(reason) => rejected.push(Rejected {
                        id: stored.id,
                        reason,
                    }),
                }
            }
            if !changed.is_empty() {
                update(&mut tx, listener, &changed).await?;
            }
        }
        tx.commit().await?;
        Ok(Some(rejected))
    }
}

/// Documents of one listener that are written in one transaction.
#[derive(Default)]
struct Batch {
    documents: Vec<Document>,
    bodies: Vec<String>,
    /// Number of given documents that each is.
    counts: Vec<usize>,
    bytes: usize,
}

impl Batch {
    fn is_full(&self, next: &Document, bytes: usize) -> bool {
        self.documents.last().is_some_and(|last| {
            last.listener != next.listener
                || self.documents.len() == MAX_BATCH
                || self.bytes + bytes > MAX_BATCH_BYTES
        })
    }

    fn add(&mut self, document: Document, body: String, count: usize) {
        self.bytes += body.len();
        self.documents.push(document);
        self.bodies.push(body);
        self.counts.push(count);
    }
}

fn sorted(document: &Document) -> Document {
    let mut document = document.clone();
    document.sort();
    document
}

/// Says why a document can never be stored.
fn check(document: &Document) -> Result<(), String> {
    let names = [
        ("id", Some(&document.id)),
        ("listener", Some(&document.listener)),
        ("entity", Some(&document.entity)),
        ("key", document.key.as_ref()),
        ("tenant", document.tenant.as_ref()),
    ];
    for (name, value) in names {
        let Some(value) = value else {
            continue;
        };
        if value.contains('\0') {
            return Err(format!("its {name} holds a character of code zero"));
        }
        if matches!(name, "id" | "listener") && value.len() > MAX_NAME_BYTES {
            return Err(format!("its {name} has more than {MAX_NAME_BYTES} bytes"));
        }
    }
    Ok(())
}

/// Writes a document as JSON, unless it is too long.
fn body(document: &Document) -> Result<String, String> {
    let body =
        serde_json::to_string(document).map_err(|error| format!("it is no JSON: {error}"))?;
    if body.len() > MAX_DOCUMENT_BYTES {
        return Err(format!("it has more than {MAX_DOCUMENT_BYTES} bytes"));
    }
    Ok(body)
}

/// A row of the table.
struct Row {
    id: String,
    log_id: i64,
    occurred_at: DateTime<Utc>,
    entity: String,
    operation: &'static str,
    key: Option<String>,
    tenant: Option<String>,
    /// Lines, as an array of arrays cannot have rows of different lengths.
    observers: String,
    outcomes: String,
    unfinished: bool,
    terms: String,
    body: String,
}

impl Row {
    fn of((document, body): (&Document, String)) -> Self {
        let fields = IndexedFields::of(document);
        Self {
            id: document.id.clone(),
            log_id: document.log_id,
            occurred_at: document.occurred_at,
            entity: document.entity.clone(),
            operation: document.operation.as_str(),
            key: document.key.clone(),
            tenant: document.tenant.clone(),
            observers: fields.observers.join("\n"),
            outcomes: fields.outcomes.join("\n"),
            unfinished: fields.unfinished,
            terms: tsvector(&fields),
            body,
        }
    }
}

fn column<'r, T>(rows: &'r [Row], of: impl Fn(&'r Row) -> T) -> Vec<T> {
    rows.iter().map(of).collect()
}

/// Inserts documents that are not there yet. Returns their ids, sorted.
async fn insert(
    tx: &mut PgConnection,
    listener: &str,
    rows: &[Row],
) -> Result<Vec<String>, SearchError> {
    let mut inserted: Vec<String> = sqlx::query_scalar(
        "insert into observer.search_document as d
             (listener, id, log_id, occurred_at, entity, operation, key, tenant, observers, outcomes, unfinished, terms,
              body)
         select $1, id, log_id, occurred_at, entity, operation, key, tenant,
             string_to_array(observers, E'\\n'), string_to_array(outcomes, E'\\n'), unfinished, terms::tsvector, body
         from unnest($2::text[], $3::bigint[], $4::timestamptz[], $5::text[], $6::text[], $7::text[], $8::text[],
             $9::text[], $10::text[], $11::boolean[], $12::text[], $13::text[]) as n (id, log_id, occurred_at,
             entity, operation, key, tenant, observers, outcomes, unfinished, terms, body)
         on conflict (listener, id) do nothing
         returning d.id",
    )
    .bind(listener)
    .bind(column(rows, |row| row.id.as_str()))
    .bind(column(rows, |row| row.log_id))
    .bind(column(rows, |row| row.occurred_at))
    .bind(column(rows, |row| row.entity.as_str()))
    .bind(column(rows, |row| row.operation))
    .bind(column(rows, |row| row.key.as_deref()))
    .bind(column(rows, |row| row.tenant.as_deref()))
    .bind(column(rows, |row| row.observers.as_str()))
    .bind(column(rows, |row| row.outcomes.as_str()))
    .bind(column(rows, |row| row.unfinished))
    .bind(column(rows, |row| row.terms.as_str()))
    .bind(column(rows, |row| row.body.as_str()))
    .fetch_all(tx)
    .await?;
    inserted.sort();
    Ok(inserted)
}

/// Locks stored documents and returns them in the order of ids, which is that of the given ones.
async fn lock(
    tx: &mut PgConnection,
    listener: &str,
    documents: &[&Document],
) -> Result<Vec<Document>, SearchError> {
    let ids: Vec<&str> = documents.iter().map(|one| one.id.as_str()).collect();
    let bodies: Vec<String> = sqlx::query_scalar(
        "select body from observer.search_document where listener = $1 and id = any ($2) order by id for update",
    )
    .bind(listener)
    .bind(ids)
    .fetch_all(tx)
    .await?;
    bodies
        .iter()
        .map(|body| super::search::parse(body))
        .collect()
}

/// Updates what a merge may have changed.
async fn update(tx: &mut PgConnection, listener: &str, rows: &[Row]) -> Result<(), SearchError> {
    sqlx::query(
        "update observer.search_document d
         set observers = string_to_array(n.observers, E'\\n'), outcomes = string_to_array(n.outcomes, E'\\n'),
             unfinished = n.unfinished, terms = n.terms::tsvector, body = n.body, changed_at = clock_timestamp()
         from unnest($2::text[], $3::text[], $4::text[], $5::boolean[], $6::text[], $7::text[])
             as n (id, observers, outcomes, unfinished, terms, body)
         where d.listener = $1 and d.id = n.id",
    )
    .bind(listener)
    .bind(column(rows, |row| row.id.as_str()))
    .bind(column(rows, |row| row.observers.as_str()))
    .bind(column(rows, |row| row.outcomes.as_str()))
    .bind(column(rows, |row| row.unfinished))
    .bind(column(rows, |row| row.terms.as_str()))
    .bind(column(rows, |row| row.body.as_str()))
    .execute(tx)
    .await?;
    Ok(())
}
