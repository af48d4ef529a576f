//! Removes documents.

use chrono::{DateTime, Utc};

use super::PostgresIndex;
use crate::error::SearchError;

/// Maximum number of documents that a call removes.
const MAX_REMOVED: i64 = 5000;

impl PostgresIndex {
    /// Removes documents of a listener, of those before a time the oldest first. Returns whether more may
    /// be left. Documents that are being written are left.
    pub(super) async fn remove(
        &self,
        listener: &str,
        before: Option<DateTime<Utc>>,
    ) -> Result<bool, SearchError> {
        let mut tx = self.begin().await?;
        let removed = sqlx::query(
            "delete from observer.search_document where ctid = any (array(
                 select ctid from observer.search_document
                 where listener = $1 and ($2::timestamptz is null or occurred_at < $2)
                 order by occurred_at, log_id, id limit $3 for update skip locked))",
        )
        .bind(listener)
        .bind(before)
        .bind(MAX_REMOVED)
        .execute(&mut *tx)
        .await?;
        tx.commit().await?;
        Ok(removed.rows_affected() == MAX_REMOVED.unsigned_abs())
    }
}
