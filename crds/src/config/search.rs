//! Search, after validation.

use std::time::Duration;

use super::{Redacted, TlsConfig};
pub use crate::v1alpha1::DocumentContent;

/// The history of a listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SearchConfig {
    /// Where documents are stored.
    pub backend: SearchBackend,
    /// Age at which documents are removed.
    pub retention: Duration,
    /// What documents hold.
    pub documents: DocumentContent,
    /// Columns whose values documents never hold.
    pub redact: Vec<RedactedColumn>,
    /// Longest time that the change log waits for the history.
    pub max_lag: Duration,
}

/// Where the documents of a history are stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SearchBackend {
    /// In the listener's own database.
    Postgres,
    /// In Elasticsearch or OpenSearch.
    Elasticsearch(ElasticsearchConfig),
}

/// Connection to Elasticsearch or OpenSearch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ElasticsearchConfig {
    /// URL of the server.
    pub url: Redacted,
    /// Beginning of the names of the indices.
    pub index: String,
    /// TLS settings beyond the system's.
    pub tls: Option<TlsConfig>,
    /// How to log in; not at all where absent.
    pub login: Option<SearchLogin>,
}

/// Credentials of a search server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SearchLogin {
    /// User and password.
    Basic(Redacted, Redacted),
    /// Encoded API key.
    ApiKey(Redacted),
}

/// A column whose values documents never hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RedactedColumn {
    /// The entity; all where absent.
    pub entity: Option<String>,
    /// The column.
    pub column: String,
}

impl RedactedColumn {
    /// Returns whether it is a column of that entity.
    #[must_use]
    pub fn is_of(&self, entity: &str) -> bool {
        self.entity.as_deref().is_none_or(|own| own == entity)
    }
}
