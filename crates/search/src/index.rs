//! The trait of a search index.

use std::fmt::Debug;

use async_trait::async_trait;
use chrono::{DateTime, Utc};

use crate::document::Document;
use crate::error::SearchError;
use crate::request::{PageKey, Scope, SearchPage, SearchRequest};

/// Stored documents of events, which can be searched. All calls are bounded in time, and may be
/// repeated.
#[async_trait]
pub trait SearchIndex: Debug + Send + Sync {
    /// Name of the backend, in logs and metrics: `postgres` or `elasticsearch`.
    fn backend(&self) -> &'static str;

    /// Creates what the index needs, such as templates; changes nothing that is there already.
    async fn prepare(&self) -> Result<(), SearchError>;

    /// Writes documents, each merged with the stored one of its id, if there is one
    /// ([`Document::merge`]), whoever else writes at the same time. Once it returns, they are found
    /// within a second. A document that can never be stored is rejected alone, if others can be; where
    /// none can, that may be the index's fault, and is an error. After an error, some may have been
    /// written.
    async fn write(&self, documents: &[Document]) -> Result<WriteReport, SearchError>;

    /// Returns a page of the documents that match, within the scope.
    async fn search(&self, request: &SearchRequest) -> Result<SearchPage, SearchError>;

    /// Returns one document, if it is within the scope.
    async fn get(&self, scope: &Scope, id: &str) -> Result<Option<Document>, SearchError>;

    /// Returns documents of a listener with a delivery that is not over, whose events occurred before
    /// `before`, the oldest first, beginning after `after`.
    async fn unfinished(
        &self,
        listener: &str,
        before: DateTime<Utc>,
        after: Option<&PageKey>,
        limit: u32,
    ) -> Result<Vec<Document>, SearchError>;

    /// Removes documents of a listener whose events occurred before `before`, up to a bound for each
    /// call. Returns whether more may be left.
    async fn remove_expired(
        &self,
        listener: &str,
        before: DateTime<Utc>,
    ) -> Result<bool, SearchError>;

    /// Removes all documents of a listener, up to a bound for each call. Returns whether more may be
    /// left.
    async fn remove_listener(&self, listener: &str) -> Result<bool, SearchError>;
}

/// What became of written documents.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WriteReport {
    /// Number of documents that are stored now as they were given, or with more.
    pub written: usize,
    /// Documents that can never be stored.
    pub rejected: Vec<Rejected>,
}

/// A document that can never be stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejected {
    /// Its id.
    pub id: String,
    /// Why; without values of the row.
    pub reason: String,
}
