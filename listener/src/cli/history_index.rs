//! The history of a listener, for commands that read it.

use std::sync::Arc;
use std::time::Duration;

use ::search::{
    Document, Filters, Scope, SearchError, SearchIndex, SearchPage, SearchRequest, SortOrder,
};
use chrono::{DateTime, Utc};
use crds::config::{DocumentContent, ListenerConfig};
use sqlx::PgPool;
use tokio::time::timeout;

use super::CliError;
use super::output::{counted, time};

/// How long the index is waited for by commands that know another source.
const PATIENCE: Duration = Duration::from_secs(10);

/// A history that can be read.
pub(super) struct HistoryIndex {
    index: Arc<dyn SearchIndex>,
    listener: String,
    /// Whether its documents tell what became of events.
    pub(super) has_outcomes: bool,
}

impl HistoryIndex {
    /// Opens the history of a listener, if it keeps one; connects to nothing yet. The pool is of the
    /// listener's database.
    pub(super) fn open(listener: &ListenerConfig, pool: PgPool) -> Result<Option<Self>, CliError> {
        let Some(config) = &listener.search else {
            return Ok(None);
        };
        Ok(Some(Self {
            index: ::search::open(config, pool)?,
            listener: listener.identity(),
            has_outcomes: config.documents == DocumentContent::EventsAndOutcomes,
        }))
    }

    /// Returns a request for the newest documents that match.
    pub(super) fn request(
        &self,
        tenant: Option<String>,
        filters: Filters,
        limit: u32,
    ) -> SearchRequest {
        SearchRequest {
            scope: Scope {
                listener: self.listener.clone(),
                tenant,
            },
            filters,
            sort: SortOrder::Newest,
            after: None,
            limit,
            facets: false,
            highlight: false,
        }
    }

    /// Searches, for as long as the index takes.
    pub(super) async fn search(&self, request: &SearchRequest) -> Result<SearchPage, SearchError> {
        self.index.search(request).await
    }

    /// Searches, unless the index takes too long.
    pub(super) async fn try_search(
        &self,
        request: &SearchRequest,
    ) -> Result<SearchPage, SearchError> {
        patiently(self.index.search(request)).await
    }

    /// Returns the document of an event, unless the index takes too long.
    pub(super) async fn get(&self, id: &str) -> Result<Option<Document>, SearchError> {
        let scope = Scope {
            listener: self.listener.clone(),
            tenant: None,
        };
        patiently(self.index.get(&scope, id)).await
    }

    /// Says how many events it holds, of a tenant or of all, and since when.
    pub(super) async fn extent(&self, tenant: Option<String>) -> Result<String, SearchError> {
        let first = SearchRequest {
            sort: SortOrder::Oldest,
            ..self.request(tenant.clone(), Filters::default(), 1)
        };
        let page = self.try_search(&first).await?;
        let of_tenant = tenant.map_or_else(String::new, |tenant| format!(" of tenant {tenant}"));
        Ok(match page.hits.first() {
            Some(hit) => format!(
                "the history of {} holds {}{of_tenant} since {}",
                self.listener,
                counted(page.total, "event", "events"),
                time(hit.document.occurred_at)
            ),
            None => format!(
                "the history of {} holds no event{of_tenant}: the listener writes them while it runs",
                self.listener
            ),
        })
    }

    /// Whether an event has no document though it occurred some time ago.
    pub(super) async fn lacks(&self, id: &str, occurred_at: DateTime<Utc>) -> bool {
        let since = Utc::now().signed_duration_since(occurred_at);
        since.to_std().is_ok_and(|since| since >= PATIENCE)
            && matches!(self.get(id).await, Ok(None))
    }
}

/// Bounds a call in time.
async fn patiently<T>(
    call: impl Future<Output = Result<T, SearchError>> + Send,
) -> Result<T, SearchError> {
    timeout(PATIENCE, call).await.unwrap_or_else(|_| {
        let waited = format!("no answer within {} s", PATIENCE.as_secs());
        Err(SearchError::Unavailable(waited))
    })
}
