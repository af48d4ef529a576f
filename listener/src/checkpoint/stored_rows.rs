//! Row counts of a listener's stored data, for commands that delete or repeat it.

use sqlx::{PgPool, Row};

/// Maximum number of rows counted of each kind; for more, only that there are more is shown.
const MAX_COUNTED: i64 = 1_000_000;

/// A number of rows, bounded by the maximum that is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RowCount(i64);

impl RowCount {
    /// Formats the count with its noun, as in `1 event` and `2 events`.
    #[must_use]
    pub fn of(self, noun: &str) -> String {
        match self.0 {
            1 => format!("1 {noun}"),
            n if n >= MAX_COUNTED => format!("{MAX_COUNTED} {noun}s or more"),
            n => format!("{n} {noun}s"),
        }
    }
}

/// The stored data of a listener, in rows.
#[derive(Clone, Copy, Debug)]
pub struct StoredRows {
    /// Its shards, none where it has not run.
    pub shards: RowCount,
    /// Dead letters.
    pub dead_letters: RowCount,
    /// Jobs that are kept in the database.
    pub jobs: RowCount,
    /// Deliveries recorded as processed in the database, so that none takes effect twice.
    pub processed_deliveries: RowCount,
    /// Events in the change log, of all listeners.
    pub events: RowCount,
}

impl StoredRows {
    /// Returns whether the listener has no stored position.
    #[must_use]
    pub const fn has_not_run(&self) -> bool {
        self.shards.0 == 0
    }

    /// Returns whether nothing is stored of the listener.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.shards.0 == 0
            && self.dead_letters.0 == 0
            && self.jobs.0 == 0
            && self.processed_deliveries.0 == 0
    }
}

/// Counts the stored rows of a listener.
pub async fn count_rows(pool: &PgPool, listener: &str) -> Result<StoredRows, sqlx::Error> {
    let row = sqlx::query(
        "select
             (select count(*) from observer.checkpoint where listener = $1),
             (select count(*) from (select from observer.dead_letter where listener = $1 limit $2) found),
             (select count(*) from (
                 select from observer.job where queue = observer.job_queue_of($1) limit $2) found),
             (select count(*) from (select from observer.processed_delivery where listener = $1 limit $2) found),
             (select count(*) from (select from observer.change_log limit $2) found)",
    )
    .bind(listener)
    .bind(MAX_COUNTED)
    .fetch_one(pool)
    .await?;
    let count = |column: usize| row.try_get(column).map(RowCount);
    Ok(StoredRows {
        shards: count(0)?,
        dead_letters: count(1)?,
        jobs: count(2)?,
        processed_deliveries: count(3)?,
        events: count(4)?,
    })
}

/// Returns the listeners that have stored rows, in order.
pub async fn listeners(pool: &PgPool) -> Result<Vec<String>, sqlx::Error> {
    sqlx::query_scalar(
        "select listener from observer.checkpoint union select listener from observer.dead_letter
         union select listener from observer.job_queue order by 1",
    )
    .fetch_all(pool)
    .await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn count_is_formatted_with_its_noun() {
        assert_eq!(RowCount(0).of("event"), "0 events");
        assert_eq!(RowCount(1).of("event"), "1 event");
        assert_eq!(RowCount(MAX_COUNTED).of("event"), "1000000 events or more");
    }
}
