//! Backend in Postgres: rows of `observer.search_document`, one for each document. Words and terms are the
//! lexemes of one `tsvector`, made here and compared byte by byte; no text search configuration of the
//! server's has a part in it.
//!
//! No call leaves anything in a session, so connections may be a pooler's.

mod conditions;
mod error;
mod found;
mod remove;
mod search;
mod tsquery;
mod tsvector;
mod write;

use std::time::Duration;

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use queue::sql_transaction::begin_with;
use sqlx::{PgPool, Postgres, Transaction};
use tokio::time::timeout;

use crate::document::Document;
use crate::error::SearchError;
use crate::index::{SearchIndex, WriteReport};
use crate::plan::plan;
use crate::request::{PageKey, Scope, SearchPage, SearchRequest};

/// Longest time of a call, for a server that does not respond at all.
const CALL_TIMEOUT: Duration = Duration::from_mins(1);

/// Begins a transaction whose statements are bounded in time. Plans are made for the values at hand: how
/// many documents have a word differs by orders of magnitude. With less memory, the rows that an index finds
/// would be remembered by page, and the terms of all others there be read and compared.
const BEGIN: &str = "set local statement_timeout = '20s'; set local lock_timeout = '10s';
    set local idle_in_transaction_session_timeout = '30s'; set local plan_cache_mode = 'force_custom_plan';
    set local jit = off; set local work_mem = '16MB'";

/// Leaves the planner the index of terms for finding documents by them. It takes each term that it has no
/// statistics of for one of many documents, and so a query of many rare ones, each linked to the others by
/// OR, for one that finds most: it would read all documents and compare their terms, which took 900 ms where
/// the index takes 1 ms (of 50,000 documents).
const BY_TERMS: &str = "; set local enable_seqscan = off; set local enable_indexscan = off";

/// Documents in Postgres.
#[derive(Clone, Debug)]
pub struct PostgresIndex {
    pool: PgPool,
}

impl PostgresIndex {
    /// Creates the index in a database that has the schema `observer`.
    #[must_use]
    pub fn new(pool: PgPool) -> Self {
        Self { pool }
    }

    /// Begins a transaction that writes.
    async fn begin(&self) -> Result<Transaction<'static, Postgres>, SearchError> {
        let begin = format!("begin isolation level read committed read write; {BEGIN}");
        Ok(begin_with(&self.pool, begin).await?)
    }

    /// Begins a transaction that reads, all of it at one moment.
    async fn begin_read(&self) -> Result<Transaction<'static, Postgres>, SearchError> {
        self.begin_read_with("").await
    }

    /// The same, for a search by terms.
    async fn begin_read_by_terms(&self) -> Result<Transaction<'static, Postgres>, SearchError> {
        self.begin_read_with(BY_TERMS).await
    }

    async fn begin_read_with(
        &self,
        settings: &str,
    ) -> Result<Transaction<'static, Postgres>, SearchError> {
        let begin = format!("begin isolation level repeatable read read only; {BEGIN}{settings}");
        Ok(begin_with(&self.pool, begin).await?)
    }
}

/// Bounds a call in time.
async fn bounded<T>(
    call: impl Future<Output = Result<T, SearchError>> + Send,
) -> Result<T, SearchError> {
    timeout(CALL_TIMEOUT, call).await.unwrap_or_else(|_| {
        let message = format!(
            "Postgres has not responded for {} seconds",
            CALL_TIMEOUT.as_secs()
        );
        Err(SearchError::Unavailable(message))
    })
}

#[async_trait]
impl SearchIndex for PostgresIndex {
    fn backend(&self) -> &'static str {
        "postgres"
    }

    /// The table is made by the migrations; it is looked at, so that a lack is told now.
    async fn prepare(&self) -> Result<(), SearchError> {
        bounded(async {
            let looked = sqlx::query("select from observer.search_document limit 0");
            looked.execute(&self.pool).await?;
            Ok(())
        })
        .await
    }

    async fn write(&self, documents: &[Document]) -> Result<WriteReport, SearchError> {
        self.write_all(documents).await
    }

    async fn search(&self, request: &SearchRequest) -> Result<SearchPage, SearchError> {
        let plan = plan(request)?;
        bounded(self.run(&plan)).await
    }

    async fn get(&self, scope: &Scope, id: &str) -> Result<Option<Document>, SearchError> {
        bounded(self.read(scope, id)).await
    }

    async fn unfinished(
        &self,
        listener: &str,
        before: DateTime<Utc>,
        after: Option<&PageKey>,
        limit: u32,
    ) -> Result<Vec<Document>, SearchError> {
        bounded(self.read_unfinished(listener, before, after, limit)).await
    }

    async fn remove_expired(
        &self,
        listener: &str,
        before: DateTime<Utc>,
    ) -> Result<bool, SearchError> {
        bounded(self.remove(listener, Some(before))).await
    }

    async fn remove_listener(&self, listener: &str) -> Result<bool, SearchError> {
        bounded(self.remove(listener, None)).await
    }
}
