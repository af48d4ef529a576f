//! Writes documents, each merged with what is stored of it.

use chrono::{DateTime, Utc};
use sqlx::PgConnection;

use super::tsvector::tsvector;
use super::{PostgresIndex, bounded};
use crate::analysis::fields::IndexedFields;
use crate::document::Document;
use crate::error::SearchError;
use crate::given::{Rejections, body, unique};
use crate::index::WriteReport;

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
        let mut rejections = Rejections::default();
        let mut batch = Batch::default();
        // Every transaction writes in the order of ids: so none waits for one that waits for it.
        for document in unique(documents, &mut rejections, check) {
            let body = match body(&document) {
                Ok(body) => body,
                Err(reason) => {
                    rejections.add(&document, reason);
                    continue;
                }
            };
            if batch.is_full(&document, body.len()) {
                self.write_batch(std::mem::take(&mut batch), &mut rejections)
                    .await?;
            }
            batch.add(document, body);
        }
        if !batch.documents.is_empty() {
            self.write_batch(batch, &mut rejections).await?;
        }
        Ok(rejections.report(documents))
    }

    async fn write_batch(
        &self,
        batch: Batch,
        rejections: &mut Rejections,
    ) -> Result<(), SearchError> {
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
                for (document, reason) in rejected {
                    rejections.add(&document, reason);
                }
                return Ok(());
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
    ) -> Result<Option<Vec<(Document, String)>>, SearchError> {
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
                    Err(reason) => rejected.push((stored, reason)),
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

    fn add(&mut self, document: Document, body: String) {
        self.bytes += body.len();
        self.documents.push(document);
        self.bodies.push(body);
    }
}

/// Says why a document can never be stored: text in Postgres holds no NUL.
fn check(document: &Document) -> Result<(), String> {
    let names = [
        ("id", Some(&document.id)),
        ("listener", Some(&document.listener)),
        ("entity", Some(&document.entity)),
        ("key", document.key.as_ref()),
        ("tenant", document.tenant.as_ref()),
    ];
    let has_nul = |value: Option<&String>| value.is_some_and(|value| value.contains('\0'));
    match names.into_iter().find(|(_, value)| has_nul(*value)) {
        Some((name, _)) => Err(format!("its {name} holds a character of code zero")),
        None => Ok(()),
    }
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
    bodies.iter().map(|body| Document::parse(body)).collect()
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
