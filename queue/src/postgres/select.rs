//! Values from rows, and commands that mean a selection of jobs.

use serde_json::value::RawValue;

use super::PostgresQueue;
use crate::{Priority, QueueError, Selection, State};

/// Most jobs that one transaction of a command touches.
const BATCH: i64 = 1000;

/// Most transactions of one command: what is left after them is for the next call.
const MOST_BATCHES: usize = 100_000;

impl PostgresQueue {
    /// Makes delayed jobs ready, batch by batch.
    pub(super) async fn hurry(&self, what: &Selection) -> Result<u64, QueueError> {
        self.in_batches(what, "select observer.job_hurry($1, $2, $3, $4, $5, $6)")
            .await
    }

    /// Drops jobs that are pending and marks those under way, batch by batch.
    pub(super) async fn call_off(&self, what: &Selection) -> Result<u64, QueueError> {
        self.in_batches(what, "select observer.job_cancel($1, $2, $3, $4, $5, $6)")
            .await
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
