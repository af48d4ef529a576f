//! Removal of a source whose last listener is gone: a slot that nobody reads fills the disk of its server.

use crds::config::{SourceConfig, WalSourceConfig};
use sqlx::PgPool;

use super::connection::catalog_pool;
use super::error::IngestError;
use super::store::SourceStore;

/// Terminates the session that still reads the slot, and drops the slot if it exists.
const DROP: [&str; 2] = [
    "select pg_terminate_backend(active_pid) from pg_replication_slots
     where slot_name = $1 and active_pid is not null",
    "select pg_drop_replication_slot(slot_name) from pg_replication_slots
     where slot_name = $1 and plugin = 'pgoutput' and database = current_database()",
];

/// Removes a source that no listener has any more, after a listener was dropped, with its slot or its offsets. Returns
/// its name if it is gone with it. A publication stays, as it may be of others.
pub async fn drop_unused(
    log: &PgPool,
    source: &SourceConfig,
) -> Result<Option<String>, IngestError> {
    if matches!(source, SourceConfig::Triggers(_)) {
        return Ok(None);
    }
    let name = SourceStore::source_name(log, source).await?;
    if !SourceStore::is_unused(log, &name).await? {
        return Ok(None);
    }
    if let Some(source) = source.wal() {
        drop_slot(source, &name).await?;
    }
    SourceStore::remove(log, &name).await?;
    Ok(Some(name))
}

async fn drop_slot(source: &WalSourceConfig, name: &str) -> Result<(), IngestError> {
    let pool = catalog_pool(&source.database_url)?;
    for sql in DROP {
        sqlx::query(sql)
            .bind(name)
            .execute(&pool)
            .await
            .map_err(IngestError::Catalog)?;
    }
    pool.close().await;
    Ok(())
}
