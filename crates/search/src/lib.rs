//! History: a document for each event, with what became of it, in Postgres or in Elasticsearch.
//!
//! [`SearchIndex`] has two backends, which find the same documents for the same request: what is
//! searched is computed here, as terms that both store and compare byte by byte, and never by an
//! analyzer of theirs.
//!
//! Documents may be written by any process, at any time and again: writing merges a document with the
//! stored one of its id, and a merge only adds ([`Document::merge`]).

mod analysis;
mod document;
pub mod elasticsearch;
mod error;
mod facets;
mod given;
mod highlight;
mod index;
mod open;
mod plan;
pub mod postgres;
mod query;
mod request;

pub use document::{
    DeliveryAttempt, DeliveryEntry, DeliveryState, Document, MAX_ATTEMPTS_LISTED, ObserverEntry,
    merge_deliveries,
};
pub use error::SearchError;
pub use index::{Rejected, SearchIndex, WriteReport};
pub use open::open;
pub use plan::MAX_LIMIT;
pub use query::parser::MAX_QUERY_BYTES;
pub use request::{
    Bucket, Facets, Filters, Highlight, Hit, PageKey, Scope, SearchPage, SearchRequest, SortOrder,
};
