//! How much is kept of a listener, for whoever is about to remove or repeat it.

use sqlx::{PgPool, Row};

/// Most rows of anything that are counted: beyond that it is only said that there are more.
const MOST: i64 = 1_000_000;

/// So many, or more than are counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Count(i64);

impl Count {
    /// The count with what is counted, as in `1 event` and `2 events`.
    #[must_use]
    pub fn of(self, noun: &str) -> String {
        match self.0 {
            1 => format!("1 {noun}"),
            n if n >= MOST => format!("{MOST} {noun}s or more"),
            n => format!("{n} {noun}s"),
        }
    }
}

/// What is kept of a listener.
#[derive(Clone, Copy, Debug)]
pub struct Kept {
    /// Its shards, none where it has not run.
    pub shards: Count,
    /// Dead letters.
    pub letters: Count,
    /// Jobs that are kept in the database.
    pub jobs: Count,
    /// Deliveries that took effect in the database and are remembered, so that none does twice.
    pub effects: Count,
    /// Events that the log still holds, whoever they are for.
    pub events: Count,
}

impl Kept {
    /// Whether the listener has no position in the log.
    #[must_use]
    pub const fn has_not_run(&self) -> bool {
        self.shards.0 == 0
    }

    /// Whether there is nothing of the listener.
    #[must_use]
    pub const fn nothing(&self) -> bool {
        self.shards.0 == 0 && self.letters.0 == 0 && self.jobs.0 == 0 && self.effects.0 == 0
    }
}

/// Counts what is kept of a listener.
pub async fn kept(pool: &PgPool, listener: &str) -> Result<Kept, sqlx::Error> {
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
    .bind(MOST)
    .fetch_one(pool)
    .await?;
    let count = |column: usize| row.try_get(column).map(Count);
    Ok(Kept {
        shards: count(0)?,
        letters: count(1)?,
        jobs: count(2)?,
        effects: count(3)?,
        events: count(4)?,
    })
}

/// The listeners that anything is kept of, in order.
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
    fn a_count_stands_with_its_noun() {
        assert_eq!(Count(0).of("event"), "0 events");
        assert_eq!(Count(1).of("event"), "1 event");
        assert_eq!(Count(MOST).of("event"), "1000000 events or more");
    }
}
