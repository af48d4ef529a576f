//! The history of a listener, for commands that read it.

use std::sync::Arc;
use std::time::Duration;

use ::search::{
    Document, Filters, Scope, SearchError, SearchIndex, SearchPage, SearchRequest, SortOrder,
};
use chrono::{DateTime, Utc};
use crds::config::{DocumentContent, ListenerConfig, Redacted, SearchBackend};
use sqlx::PgPool;
use tokio::time::timeout;
use url::Url;

use super::CliError;
use super::output::{counted, time};

/// How long the index is waited for by commands that know another source.
const PATIENCE: Duration = Duration::from_secs(10);

/// A history that can be read.
pub(super) struct HistoryIndex {
    index: Arc<dyn SearchIndex>,
    listener: String,
    /// The server, where it is another than the database's.
    server: Option<String>,
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
            server: match &config.backend {
                SearchBackend::Elasticsearch(config) => server(&config.url),
                SearchBackend::Postgres => None,
            },
            has_outcomes: config.documents == DocumentContent::EventsAndOutcomes,
        }))
    }

    /// Describes an error, with the server that it is of.
    pub(super) fn describe(&self, error: &SearchError) -> String {
        match &self.server {
            Some(server) => format!("{error} (spec.search.elasticsearch.url is of {server})"),
            None => error.to_string(),
        }
    }

    fn scope(&self, tenant: Option<String>) -> Scope {
        Scope {
            listener: self.listener.clone(),
            tenant,
        }
    }

    /// Returns a request for the newest documents that match.
    pub(super) fn request(
        &self,
        tenant: Option<String>,
        filters: Filters,
        limit: u32,
    ) -> SearchRequest {
        SearchRequest::newest(self.scope(tenant), filters, limit)
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
        patiently(self.index.get(&self.scope(None), id)).await
    }

    /// Says how many events it holds, of a tenant or of all, and of which time.
    pub(super) async fn extent(&self, tenant: Option<String>) -> Result<String, SearchError> {
        let last = self.request(tenant.clone(), Filters::default(), 1);
        let first = SearchRequest {
            sort: SortOrder::Oldest,
            ..last.clone()
        };
        let (first, last) = (
            self.try_search(&first).await?,
            self.try_search(&last).await?,
        );
        let of_tenant = tenant.map_or_else(String::new, |tenant| format!(" of tenant {tenant}"));
        let ends = first.hits.first().zip(last.hits.first());
        Ok(match ends {
            Some((from, to)) => format!(
                "the history of {} holds {}{of_tenant}, from {} to {}",
                self.listener,
                counted(last.total, "event", "events"),
                time(from.document.occurred_at),
                time(to.document.occurred_at)
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

/// Returns host and port of a URL.
fn server(url: &Redacted) -> Option<String> {
    let url = Url::parse(url.reveal()).ok()?;
    let port = url.port_or_known_default()?;
    Some(format!("{}:{port}", url.host_str()?))
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
