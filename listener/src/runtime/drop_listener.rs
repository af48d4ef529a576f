//! Cleanup after a deleted listener: a pod of its own deletes its rows, and its documents in the search
//! index, once all others have stopped.

use std::time::Duration;

use backoff::Backoff;
use search::{SearchError, SearchIndex};
use sqlx::PgPool;
use tokio::time::Instant;

use crate::database::has_code;

/// The schema or the function is not there: `invalid_schema_name`, `undefined_function`.
const NOTHING_KEPT: [&str; 2] = ["3F000", "42883"];

/// Backoff of removals that fail.
const RETRY: Backoff = Backoff::new(Duration::from_millis(250), Duration::from_secs(2));

/// Limits of a removal of documents.
#[derive(Clone, Copy, Debug)]
pub struct RemovalLimits {
    /// How long an index that is not available is tried again.
    pub patience: Duration,
    /// Longest time in all.
    pub total: Duration,
}

impl RemovalLimits {
    /// Those of a Job: it has several attempts, within two minutes.
    pub const DEFAULT: Self = Self {
        patience: Duration::from_secs(15),
        total: Duration::from_secs(75),
    };
}

/// Why documents may be left in a search index.
#[derive(Debug, thiserror::Error)]
pub enum RemoveDocumentsError {
    /// The index does not remove them.
    #[error(
        "the documents of listener {listener} were not removed: {source}. Its rows in the database are deleted; run \
         the command again with --gone once this is repaired"
    )]
    Failed {
        /// The listener.
        listener: String,
        /// The error of the index.
        source: SearchError,
    },
    /// There are more than it removes in this time.
    #[error(
        "the documents of listener {listener} were not all removed within {} s. Its rows in the database are deleted; \
         run the command again with --gone", .limit.as_secs()
    )]
    TooMany {
        /// The listener.
        listener: String,
        /// The time that it had.
        limit: Duration,
    },
}

/// Deletes the rows of a listener whose pods have ended, and returns their number. A database without
/// the schema has none.
pub async fn drop_listener(pool: &PgPool, listener: &str) -> Result<i64, sqlx::Error> {
    let rows = sqlx::query_scalar("select observer.drop_listener($1)")
        .bind(listener)
        .fetch_one(pool)
        .await;
    match rows {
        Err(error) if has_code(&error, &NOTHING_KEPT) => Ok(0),
        rows => rows,
    }
}

/// Removes the documents of a listener whose pods have ended, part by part. What was removed stays so if
/// the rest is not: the call can be repeated.
pub async fn remove_documents(
    index: &dyn SearchIndex,
    listener: &str,
    limits: RemovalLimits,
) -> Result<(), RemoveDocumentsError> {
    let begun = Instant::now();
    let (mut failing_since, mut backoff) = (None, RETRY);
    loop {
        match index.remove_listener(listener).await {
            Ok(false) => return Ok(()),
            Ok(true) => (failing_since, backoff) = (None, RETRY),
            Err(error) => {
                let since = *failing_since.get_or_insert_with(Instant::now);
                let passes = matches!(error, SearchError::Unavailable(_));
                if !passes || since.elapsed() >= limits.patience {
                    return Err(RemoveDocumentsError::Failed {
                        listener: listener.to_owned(),
                        source: error,
                    });
                }
                tracing::warn!(%listener, %error, "could not remove documents from the search index; retrying");
                tokio::time::sleep(backoff.next_delay()).await;
            }
        }
        if begun.elapsed() >= limits.total {
            return Err(RemoveDocumentsError::TooMany {
                listener: listener.to_owned(),
                limit: limits.total,
            });
        }
    }
}
