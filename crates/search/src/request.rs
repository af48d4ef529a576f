//! Requests to a search index, and their results.

use chrono::{DateTime, Utc};
use crds::config::Operation;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::document::{DeliveryState, Document};

/// What a caller may see: the documents of one listener, or of one tenant of it. It is part of every
/// query, facet and count. A tenant cannot search the field `notMatched`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scope {
    /// Identity of the listener.
    pub listener: String,
    /// The only tenant whose documents are seen; all where absent.
    pub tenant: Option<String>,
}

/// A search.
#[derive(Clone, Debug)]
pub struct SearchRequest {
    /// What the caller may see.
    pub scope: Scope,
    /// Filters, all of which hold.
    pub filters: Filters,
    /// The order of the hits.
    pub sort: SortOrder,
    /// The hit after which the page begins; absent for the first page.
    pub after: Option<PageKey>,
    /// Maximum number of hits, 0 to 1000.
    pub limit: u32,
    /// Whether to count by facet.
    pub facets: bool,
    /// Whether to show where the text of the query is found.
    pub highlight: bool,
}

impl SearchRequest {
    /// Creates a request for the first page of the newest documents, without facets and highlights.
    #[must_use]
    pub const fn newest(scope: Scope, filters: Filters, limit: u32) -> Self {
        Self {
            scope,
            filters,
            sort: SortOrder::Newest,
            after: None,
            limit,
            facets: false,
            highlight: false,
        }
    }
}

/// Filters of documents; the default matches all.
#[derive(Clone, Debug, Default)]
pub struct Filters {
    /// Query in the query language; all documents where absent.
    pub query: Option<String>,
    /// Only events of this entity.
    pub entity: Option<String>,
    /// Only these operations; all where empty.
    pub operations: Vec<Operation>,
    /// Only events of this key.
    pub key: Option<String>,
    /// Only events of this tenant.
    pub tenant: Option<String>,
    /// Only events that this observer matched, `namespace/name`; with `action` and `states`, of one
    /// delivery.
    pub observer: Option<String>,
    /// Only events with a delivery of an action of this name.
    pub action: Option<String>,
    /// Only events with a delivery in one of these states; all where empty.
    pub states: Vec<DeliveryState>,
    /// Only events that occurred at this time or later.
    pub from: Option<DateTime<Utc>>,
    /// Only events that occurred before this time.
    pub to: Option<DateTime<Utc>>,
}

/// The order of hits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum SortOrder {
    /// The latest event first.
    #[default]
    Newest,
    /// The earliest event first.
    Oldest,
}

/// Place of a hit in its order: when its event occurred, then its number in the log, then its id.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PageKey {
    /// Microseconds since 1970.
    pub occurred_at_micros: i64,
    /// Number in the log.
    pub log_id: i64,
    /// Id of the event.
    pub id: String,
}

impl PageKey {
    /// Returns the place of a document.
    #[must_use]
    pub fn of(document: &Document) -> Self {
        Self {
            occurred_at_micros: document.occurred_at.timestamp_micros(),
            log_id: document.log_id,
            id: document.id.clone(),
        }
    }
}

/// A page of hits.
#[derive(Clone, Debug, Default)]
pub struct SearchPage {
    /// The hits, in order.
    pub hits: Vec<Hit>,
    /// Number of documents that match, on all pages.
    pub total: u64,
    /// Place of the last hit, if more follow.
    pub next: Option<PageKey>,
    /// Counts of the documents that match, where they were asked for.
    pub facets: Option<Facets>,
}

/// A document that matches.
#[derive(Clone, Debug)]
pub struct Hit {
    /// The document.
    pub document: Document,
    /// Where the text of the query is found, where that was asked for.
    pub highlights: Vec<Highlight>,
}

/// A field in which the text of a query is found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct Highlight {
    /// The field, as a query names it, for example `new.name`.
    pub field: String,
    /// Its text, cut around the first match, with each match between `«` and `»`.
    pub text: String,
}

/// Counts of documents.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(deny_unknown_fields)]
pub struct Facets {
    /// By entity, the most frequent ones first.
    pub entity: Vec<Bucket>,
    /// By operation.
    pub operation: Vec<Bucket>,
    /// By observer that matched.
    pub observer: Vec<Bucket>,
    /// By state of a delivery; `notMatched` counts those without a delivery.
    pub outcome: Vec<Bucket>,
    /// By time: the start of each interval as RFC 3339, in order.
    pub time: Vec<Bucket>,
    /// Length of these intervals in seconds.
    pub interval_seconds: u64,
}

/// A value and how many documents have it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct Bucket {
    /// The value.
    pub value: String,
    /// Number of documents.
    pub count: u64,
}
