//! The index that a configuration names.

use std::sync::Arc;

use crds::config::{SearchBackend, SearchConfig};
use sqlx::PgPool;

use crate::elasticsearch::ElasticsearchIndex;
use crate::error::SearchError;
use crate::index::SearchIndex;
use crate::postgres::PostgresIndex;

/// Opens the index that a configuration names; `pool` is of the listener's own database. Connects to
/// nothing yet.
pub fn open(config: &SearchConfig, pool: PgPool) -> Result<Arc<dyn SearchIndex>, SearchError> {
    match &config.backend {
        SearchBackend::Postgres => Ok(Arc::new(PostgresIndex::new(pool))),
        SearchBackend::Elasticsearch(config) => Ok(Arc::new(ElasticsearchIndex::new(config)?)),
    }
}
