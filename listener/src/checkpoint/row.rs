//! A checkpoint's row, from the table and to it.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use sqlx::Row;
use sqlx::postgres::PgRow;

use super::{Beyond, CheckpointError, Inherited, PartlyDone, Progress};
use crate::capture::position::{LogBound, Position};
use crate::capture::snapshot::SnapshotError;

/// Columns that [`progress`] reads.
pub(super) const COLUMNS: &str =
    "c.base_low_id, c.base_snapshot::text as base_snapshot, c.base_high_id,
    c.window_low_id, c.window_snapshot::text as window_snapshot, c.window_high_id, c.last_id, c.completed_ids,
    c.partially_completed::text as partially_completed, c.pre_reshard_progress::text as pre_reshard_progress";

/// `pre_reshard_progress` as the table holds it.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct InheritedRow {
    of: u16,
    shard: u16,
    from: StoredBound,
    to: Option<StoredBound>,
    last_id: i64,
    finished: Vec<i64>,
    partly: Vec<PartlyDone>,
    /// Earlier versions did not write it.
    until: Option<String>,
}

#[derive(Serialize, Deserialize)]
struct StoredBound {
    low_id: i64,
    snapshot: String,
    high_id: i64,
}

/// What is wrong with a row.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unreadable {
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    #[error(transparent)]
    Json(#[from] serde_json::Error),
}

/// The progress in a row with [`COLUMNS`].
pub(super) fn progress(
    row: &PgRow,
    listener: &str,
    shard: u16,
) -> Result<Progress, CheckpointError> {
    let damaged = |error: Unreadable| CheckpointError::Damaged {
        listener: listener.to_owned(),
        shard,
        reason: error.to_string(),
    };
    let mark = |low_id: i64, snapshot: &str, high_id: i64| {
        mark(low_id, snapshot, high_id).map_err(damaged)
    };
    let from = mark(
        row.try_get("base_low_id")?,
        row.try_get("base_snapshot")?,
        row.try_get("base_high_id")?,
    )?;
    let to = match row.try_get::<Option<&str>, _>("window_snapshot")? {
        Some(snapshot) => Some(mark(
            row.try_get("window_low_id")?,
            snapshot,
            row.try_get("window_high_id")?,
        )?),
        None => None,
    };
    let stored: &str = row.try_get("partially_completed")?;
    let stored = serde_json::from_str(stored).map_err(|error| damaged(error.into()))?;
    let inherited: &str = row.try_get("pre_reshard_progress")?;
    Ok(Progress {
        position: Position {
            from,
            to,
            last_id: row.try_get("last_id")?,
        },
        beyond: beyond(row.try_get("completed_ids")?, stored),
        inherited: read_inherited(inherited).map_err(damaged)?,
    })
}

fn mark(low_id: i64, snapshot: &str, high_id: i64) -> Result<Arc<LogBound>, Unreadable> {
    Ok(Arc::new(LogBound {
        low_id,
        snapshot: snapshot.parse()?,
        high_id,
    }))
}

fn beyond(finished: Vec<i64>, stored: Vec<PartlyDone>) -> Beyond {
    let mut beyond = Beyond {
        finished: finished.into_iter().collect(),
        ..Beyond::default()
    };
    for PartlyDone(id, observer, action) in stored {
        let actions = beyond.partly.entry(id).or_default();
        actions.push((observer, action));
    }
    beyond
}

fn read_inherited(text: &str) -> Result<Arc<[Inherited]>, Unreadable> {
    let rows: Vec<InheritedRow> = serde_json::from_str(text)?;
    let read = |row: InheritedRow| {
        let mark = |stored: StoredBound| mark(stored.low_id, &stored.snapshot, stored.high_id);
        let position = Position {
            from: mark(row.from)?,
            to: row.to.map(mark).transpose()?,
            last_id: row.last_id,
        };
        let until = match row.until {
            Some(until) => until.parse()?,
            None => position.latest_bound().snapshot.clone(),
        };
        Ok(Inherited {
            of: row.of,
            shard: row.shard,
            position,
            beyond: beyond(row.finished, row.partly),
            until,
        })
    };
    rows.into_iter().map(read).collect()
}

/// Ids as an array's text.
pub(super) fn finished(beyond: &Beyond) -> String {
    let ids: Vec<String> = beyond.finished.iter().map(i64::to_string).collect();
    format!("{{{}}}", ids.join(","))
}

/// Actions that are done, as JSON.
pub(super) fn partly(beyond: &Beyond) -> Result<String, serde_json::Error> {
    serde_json::to_string(&partly_rows(beyond))
}

fn partly_rows(beyond: &Beyond) -> Vec<PartlyDone> {
    let actions = |(id, actions): (&i64, &Vec<crate::delivery::ActionName>)| {
        let id = *id;
        let rows = actions.iter().cloned();
        let rows = rows.map(move |(observer, action)| PartlyDone(id, observer, action));
        rows.collect::<Vec<_>>()
    };
    beyond.partly.iter().flat_map(actions).collect()
}

/// What was inherited, as JSON.
pub(super) fn inherited(all: &[Inherited]) -> Result<String, serde_json::Error> {
    let stored = |mark: &Arc<LogBound>| StoredBound {
        low_id: mark.low_id,
        snapshot: mark.snapshot.to_string(),
        high_id: mark.high_id,
    };
    let rows = all.iter().map(|one| InheritedRow {
        of: one.of,
        shard: one.shard,
        from: stored(&one.position.from),
        to: one.position.to.as_ref().map(stored),
        last_id: one.position.last_id,
        finished: one.beyond.finished.iter().copied().collect(),
        partly: partly_rows(&one.beyond),
        until: Some(one.until.to_string()),
    });
    serde_json::to_string(&rows.collect::<Vec<_>>())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]

    use super::*;

    const EARLIER: &str = r#"[{"of":4,"shard":1,"from":{"low_id":1,"snapshot":"5:5:","high_id":2},
        "to":{"low_id":3,"snapshot":"9:9:","high_id":4},"lastId":3,"finished":[7],"partly":[[8,"o","a"]]}]"#;

    #[test]
    fn what_was_inherited_goes_there_and_back() {
        let mut all = read_inherited(EARLIER).unwrap().to_vec();
        assert_eq!(all[0].until.to_string(), "9:9:", "as far as the position");
        all[0].until = "12:12:".parse().unwrap();
        let again = read_inherited(&inherited(&all).unwrap()).unwrap();
        assert_eq!(*again, *all);
    }
}
