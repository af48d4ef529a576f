//! What can be found wrong with a backfill before it is started.

use crds::config::SourceConfig;
use sqlx::PgPool;

use super::request::BackfillRequest;
use super::table::{KeyedTable, TableError};
use crate::ingest::{IngestError, catalog_pool};

/// A backfill would fail.
#[derive(Debug, thiserror::Error)]
pub enum CheckError {
    /// Its table cannot be read by pages, or a filter does not fit it.
    #[error("{0}")]
    Table(String),
    /// The database does not answer.
    #[error("cannot look at the table: {}", ::queue::describe_error(.0))]
    Database(#[source] sqlx::Error),
    /// The database of the source cannot be reached.
    #[error(transparent)]
    Source(#[from] IngestError),
}

/// Checks a backfill against its table, in the database of the source or else of the change log. Returns how many
/// rows the planner takes the table for, filters not counted in.
pub async fn check(
    log: &PgPool,
    source: &SourceConfig,
    request: &BackfillRequest,
) -> Result<u64, CheckError> {
    if matches!(source, SourceConfig::Kafka(_)) {
        return Err(CheckError::Table(
            "topics have no tables that could be read: what they hold is delivered with \
             spec.source.kafka.initialOffset: Earliest, by a listener that has not run before"
                .to_owned(),
        ));
    }
    let read = source
        .wal()
        .map(|source| catalog_pool(&source.database_url))
        .transpose()?;
    let pool = read.as_ref().unwrap_or(log);
    let checked = async {
        let mut connection = pool.acquire().await?;
        let table = KeyedTable::find(&mut connection, &request.entity).await?;
        table.page(&request.filters, true, None)?;
        Ok(table.estimated_rows.unsigned_abs())
    };
    let result = checked.await;
    if let Some(read) = read {
        read.close().await;
    }
    result.map_err(|error: TableError| match error {
        TableError::Database(error) => CheckError::Database(error),
        error => CheckError::Table(error.to_string()),
    })
}
