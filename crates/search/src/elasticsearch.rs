//! Documents in Elasticsearch (7.17, 8, 9) or OpenSearch (2, 3).
//!
//! Each month has an index, by the time of its events, named with the version of the mapping; an alias
//! names them all. Several listeners may share them.
//!
//! A document is stored under its event's id, and the index follows from the event: so there is one of it.
//! It is created, and where it is there already it is read, merged and written back under the condition
//! that it is unchanged (`if_seq_no`). A version of ours that only grows (`external`) would
//! not do: two processes that tell of two deliveries of one event both know something that the other one
//! does not, and the later one would win. Compare-and-set with a merge that only adds keeps both, never
//! doubles and never goes back.

mod cleanup;
mod documents;
mod names;
mod query;
mod read;
mod schema;
mod transport;
mod upgrade;
mod write;

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use crds::config::ElasticsearchConfig;

use crate::document::Document;
use crate::error::SearchError;
use crate::index::{SearchIndex, WriteReport};
use crate::request::{PageKey, Scope, SearchPage, SearchRequest};
use transport::Server;

/// Documents in Elasticsearch or OpenSearch.
#[derive(Debug)]
pub struct ElasticsearchIndex {
    server: Server,
    /// Name of the alias, with which those of the indices begin.
    index: String,
    /// Indices that are there, as far as this process knows.
    known: Mutex<BTreeSet<String>>,
}

impl ElasticsearchIndex {
    /// Returns the index that a configuration names. Nothing is sent yet.
    pub fn new(config: &ElasticsearchConfig) -> Result<Self, SearchError> {
        Ok(Self {
            server: Server::new(config)?,
            index: config.index.clone(),
            known: Mutex::default(),
        })
    }

    fn known(&self) -> std::sync::MutexGuard<'_, BTreeSet<String>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl SearchIndex for ElasticsearchIndex {
    fn backend(&self) -> &'static str {
        "elasticsearch"
    }

    async fn prepare(&self) -> Result<(), SearchError> {
        self.check_version().await?;
        self.own_indices(&self.pattern()).await?;
        self.install_template().await?;
        self.upgrade().await?;
        Ok(())
    }

    async fn write(&self, documents: &[Document]) -> Result<WriteReport, SearchError> {
        self.write_merged(documents).await
    }

    async fn search(&self, request: &SearchRequest) -> Result<SearchPage, SearchError> {
        self.search_page(request).await
    }

    async fn get(&self, scope: &Scope, id: &str) -> Result<Option<Document>, SearchError> {
        self.get_one(scope, id).await
    }

    async fn unfinished(
        &self,
        listener: &str,
        before: DateTime<Utc>,
        after: Option<&PageKey>,
        limit: u32,
    ) -> Result<Vec<Document>, SearchError> {
        self.unfinished_page(listener, before, after, limit).await
    }

    async fn remove_expired(
        &self,
        listener: &str,
        before: DateTime<Utc>,
    ) -> Result<bool, SearchError> {
        // As often as this is called, what is left of an older mapping gets less.
        let more = self.upgrade().await?;
        Ok(self.remove_before(listener, Some(before)).await? || more)
    }

    async fn remove_listener(&self, listener: &str) -> Result<bool, SearchError> {
        self.remove_before(listener, None).await
    }
}
