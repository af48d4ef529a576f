//! Values from rows, and commands that mean a selection of jobs.

use std::time::Duration;

use serde_json::value::RawValue;

use super::PostgresQueue;
use crate::{Priority, QueueError, Selection, State};

/// Most jobs that one transaction of a command touches.
const BATCH: i64 = 1000;

/// Most transactions of one command: what is left after them is for the next call.
const MOST_BATCHES: usize = 100_000;

/// Most looks for jobs that were passed over, and the time between two. New ones may come all the
/// time, so it ends.
const MOST_LOOKS: usize = 20;
const BETWEEN_LOOKS: Duration = Duration::from_millis(50);

impl PostgresQueue {
    /// Makes delayed jobs ready, batch by batch.
    pub(super) async fn hurry(&self, what: &Selection) -> Result<u64, QueueError> {
        self.in_batches(what, "select observer.job_hurry($1, $2, $3, $4, $5, $6)")
            .await
    }

    /// Drops jobs that are pending and marks those under way, batch by batch. Those that somebody
    /// claims or ends at the moment are passed over, and so looked for again.
    pub(super) async fn call_off(&self, what: &Selection) -> Result<u64, QueueError> {
        let mut all = 0;
        for _ in 0..MOST_LOOKS {
            all += self
                .in_batches(what, "select observer.job_cancel($1, $2, $3, $4, $5, $6)")
                .await?;
            let left: bool = sqlx::query_scalar(
                "select exists (
                     select from observer.job p
                     where p.queue = observer.job_queue_of($1) and p.cancelled is null
                         and ($2::text[] is null or p.name = any ($2)) and ($3::text is null or p.observer = $3)
                         and ($4::text is null or p.action = $4) and ($5::text[] is null or p.state::text = any ($5)))",
            )
            .bind(&self.listener)
            .bind(&what.ids)
            .bind(&what.observer)
            .bind(&what.action)
            .bind(states(what.state))
            .fetch_one(&self.pool)
            .await?;
            if !left {
                break;
            }
            tokio::time::sleep(BETWEEN_LOOKS).await;
        }
        Ok(all)
    }

    async fn in_batches(&self, what: &Selection, sql: &'static str) -> Result<u64, QueueError> {
        let mut all = 0;
        for _ in 0..MOST_BATCHES {
            let some: i64 = sqlx::query_scalar(sql)
                .bind(&self.listener)
                .bind(&what.ids)
                .bind(&what.observer)
                .bind(&what.action)
                .bind(states(what.state))
                .bind(BATCH)
                .fetch_one(&self.pool)
                .await?;
            all += some.unsigned_abs();
            if some == 0 {
                break;
            }
        }
        Ok(all)
    }
}

/// As the table writes it.
pub(super) fn priority_number(priority: Priority) -> i16 {
    match priority {
        Priority::High => 0,
        Priority::Normal => 1,
        Priority::Low => 2,
    }
}

/// As the table writes it; nothing else is ever written.
pub(super) fn priority(number: i16) -> Priority {
    match number {
        0 => Priority::High,
        1 => Priority::Normal,
        _ => Priority::Low,
    }
}

/// How the table writes a state; nothing for all of them.
pub(super) fn states(state: Option<State>) -> Option<Vec<&'static str>> {
    state.map(|state| match state {
        State::Ready => vec!["r", "d"],
        State::Running => vec!["c"],
        State::Behind => vec!["b"],
        State::Finished => Vec::new(),
    })
}

/// JSON as it is kept.
pub(super) fn raw(text: String) -> Result<Box<RawValue>, QueueError> {
    RawValue::from_string(text).map_err(|error| QueueError::Unreadable(error.to_string()))
}
