//! Conversion of progress from and to a row of the table `checkpoint`.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use sqlx::Row;
use sqlx::postgres::PgRow;

use super::{CheckpointError, CompletedAhead, PartiallyDone, PreReshardProgress, Progress};
use crate::capture::change_log::LogError;
use crate::capture::position::{LogBound, Position};
use crate::capture::snapshot::SnapshotError;
use crate::capture::stored_position;
use crate::delivery::ActionName;

/// The columns that [`progress`] reads beside those of the position.
pub(super) const COLUMNS: &str = "c.completed_ids,
    c.partially_completed::text as partially_completed, c.pre_reshard_progress::text as pre_reshard_progress";

/// `pre_reshard_progress` as the table holds it.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct StoredProgress {
    shard_count: u16,
    shard: u16,
    from: StoredBound,
    to: Option<StoredBound>,
    last_id: i64,
    completed: Vec<i64>,
    partial: Vec<PartiallyDone>,
    until: String,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct StoredBound {
    low_id: i64,
    snapshot: String,
    high_id: i64,
}

/// A column of the row does not parse.
#[derive(Debug, thiserror::Error)]
pub(super) enum RowError {
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    #[error(transparent)]
    Json(#[from] serde_json::Error),
}

/// Reads the progress from a row with these columns, and those of a stored position.
pub(super) fn progress(
    row: &PgRow,
    listener: &str,
    shard: u16,
) -> Result<Progress, CheckpointError> {
    let corrupted = |error: RowError| CheckpointError::Corrupted {
        listener: listener.to_owned(),
        shard,
        reason: error.to_string(),
    };
    let position = stored_position::read(row).map_err(|error| match error {
        LogError::Database(error) => error.into(),
        LogError::Snapshot(error) => corrupted(error.into()),
        error @ LogError::Operation { .. } => error.into(),
    })?;
    let stored: &str = row.try_get("partially_completed")?;
    let stored = serde_json::from_str(stored).map_err(|error| corrupted(error.into()))?;
    let pre_reshard: &str = row.try_get("pre_reshard_progress")?;
    Ok(Progress {
        position,
        completed_ahead: completed_ahead(row.try_get("completed_ids")?, stored),
        pre_reshard: read_pre_reshard(pre_reshard).map_err(corrupted)?,
    })
}

fn log_bound(low_id: i64, snapshot: &str, high_id: i64) -> Result<Arc<LogBound>, RowError> {
    Ok(Arc::new(LogBound {
        low_id,
        snapshot: snapshot.parse()?,
        high_id,
    }))
}

fn completed_ahead(completed: Vec<i64>, stored: Vec<PartiallyDone>) -> CompletedAhead {
    let mut ahead = CompletedAhead {
        completed: completed.into_iter().collect(),
        ..CompletedAhead::default()
    };
    for PartiallyDone(id, observer, action) in stored {
        let actions = ahead.partial.entry(id).or_default();
        actions.push(ActionName::new(observer, action));
    }
    ahead
}

fn read_pre_reshard(text: &str) -> Result<Arc<[PreReshardProgress]>, RowError> {
    let rows: Vec<StoredProgress> = serde_json::from_str(text)?;
    let read = |row: StoredProgress| {
        let log_bound =
            |stored: StoredBound| log_bound(stored.low_id, &stored.snapshot, stored.high_id);
        let position = Position {
            from: log_bound(row.from)?,
            to: row.to.map(log_bound).transpose()?,
            last_id: row.last_id,
        };
        Ok(PreReshardProgress {
            shard_count: row.shard_count,
            shard: row.shard,
            position,
            completed_ahead: completed_ahead(row.completed, row.partial),
            until: row.until.parse()?,
        })
    };
    rows.into_iter().map(read).collect()
}

/// Formats the ids of completed events as the text of an array.
pub(super) fn completed_ids(ahead: &CompletedAhead) -> String {
    let ids: Vec<String> = ahead.completed.iter().map(i64::to_string).collect();
    format!("{{{}}}", ids.join(","))
}

/// Formats the completed actions of partially completed events as JSON.
pub(super) fn partially_completed(ahead: &CompletedAhead) -> Result<String, serde_json::Error> {
    serde_json::to_string(&partial_rows(ahead))
}

fn partial_rows(ahead: &CompletedAhead) -> Vec<PartiallyDone> {
    let actions = |(id, actions): (&i64, &Vec<ActionName>)| {
        let id = *id;
        let rows = actions.iter().cloned();
        let rows = rows.map(move |one| PartiallyDone(id, one.observer, one.action));
        rows.collect::<Vec<_>>()
    };
    ahead.partial.iter().flat_map(actions).collect()
}

/// Formats the progress from before resharding as JSON.
pub(super) fn pre_reshard_progress(
    all: &[PreReshardProgress],
) -> Result<String, serde_json::Error> {
    let stored = |bound: &Arc<LogBound>| StoredBound {
        low_id: bound.low_id,
        snapshot: bound.snapshot.to_string(),
        high_id: bound.high_id,
    };
    let rows = all.iter().map(|one| StoredProgress {
        shard_count: one.shard_count,
        shard: one.shard,
        from: stored(&one.position.from),
        to: one.position.to.as_ref().map(stored),
        last_id: one.position.last_id,
        completed: one.completed_ahead.completed.iter().copied().collect(),
        partial: partial_rows(&one.completed_ahead),
        until: one.until.to_string(),
    });
    serde_json::to_string(&rows.collect::<Vec<_>>())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]

    use super::*;

    const STORED: &str = r#"[{"shardCount":4,"shard":1,"from":{"lowId":1,"snapshot":"5:5:","highId":2},"to":{"lowId":3,"snapshot":"9:9:","highId":4},"lastId":3,"completed":[7],"partial":[[8,"o","a"]],"until":"12:12:"}]"#;

    #[test]
    fn pre_reshard_progress_round_trips() {
        let progress = read_pre_reshard(STORED).unwrap();
        assert_eq!(pre_reshard_progress(&progress).unwrap(), STORED);
    }
}
