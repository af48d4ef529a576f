//! What the suite needs of a backend, and what it makes documents with.

pub(crate) mod builders;

use std::sync::Arc;

use async_trait::async_trait;
use observer_search::{Document, Filters, Scope, SearchIndex, SearchPage, SearchRequest};
use testkit::wait::eventually_or;

pub(crate) use testkit::seed::seed;

/// One backend. Tests share it: each has listeners of its own.
#[async_trait]
pub(crate) trait Fixture: Send + Sync {
    /// The index as one more process opens it, with connections of its own; it is prepared.
    async fn open(&self) -> Arc<dyn SearchIndex>;
}

/// Scope of a listener as a whole.
pub(crate) fn all_of(listener: &str) -> Scope {
    Scope {
        listener: listener.to_owned(),
        tenant: None,
    }
}

/// A request for what matches a query, newest first.
pub(crate) fn request(listener: &str, query: &str) -> SearchRequest {
    let filters = Filters {
        query: Some(query.to_owned()),
        ..Filters::default()
    };
    SearchRequest::newest(all_of(listener), filters, 100)
}

/// A request for all that matches filters.
pub(crate) fn filtered(listener: &str, filters: Filters) -> SearchRequest {
    SearchRequest {
        filters,
        ..request(listener, "")
    }
}

/// Writes documents, and waits until that many of the listener are found.
pub(crate) async fn write(index: &dyn SearchIndex, documents: &[Document], expected: u64) {
    let report = index.write(documents).await.unwrap();
    assert_eq!(report.rejected, []);
    assert_eq!(report.written, documents.len());
    found(index, &documents[0].listener, expected).await;
}

/// Waits until that many documents of a listener are found.
pub(crate) async fn found(index: &dyn SearchIndex, listener: &str, expected: u64) {
    let request = filtered(listener, Filters::default());
    until(index, &request, |page| page.total == expected).await;
}

/// Waits until a request finds what it is to find.
pub(crate) async fn until(
    index: &dyn SearchIndex,
    request: &SearchRequest,
    what: impl Fn(&SearchPage) -> bool,
) -> SearchPage {
    let search = async || index.search(request).await.unwrap();
    eventually_or(
        async || Some(search().await).filter(&what),
        async || {
            let page = search().await;
            format!(
                "{request:?} finds {} documents, first {:?}, counted {:?}",
                page.total,
                ids(&page).iter().take(20).collect::<Vec<_>>(),
                page.facets
            )
        },
    )
    .await
}

/// Ids of the hits, in order.
pub(crate) fn ids(page: &SearchPage) -> Vec<&str> {
    page.hits
        .iter()
        .map(|hit| hit.document.id.as_str())
        .collect()
}
