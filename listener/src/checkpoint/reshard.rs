//! Resharding: creates the checkpoints of a listener, or replaces them for another number of shards.
//!
//! A key belongs to another shard once the number of shards has changed, and the old shards are at
//! different positions. So each new shard starts at the earliest position of the old ones, and carries
//! the progress of every old one: what that had completed of its keys is skipped.

use std::sync::Arc;

use sqlx::{AssertSqlSafe, PgConnection, Row};

use super::row::{self, COLUMNS};
use super::{CheckpointError, PreReshardProgress, Progress};
use crate::capture::change_log::{read_bound, smallint};
use crate::capture::position::{LogBound, Position};
use crate::capture::snapshot::Snapshot;
use crate::capture::stored_position::{self, COLUMNS as POSITION_COLUMNS};

/// A shard before resharding.
struct OldShard {
    shard_count: u16,
    shard: u16,
    epoch: i64,
    progress: Progress,
}

/// Gives a listener the configured number of shards, within the caller's transaction. Changes nothing
/// if it has that number. A listener that has never run starts at `start`.
pub(crate) async fn reshard(
    tx: &mut PgConnection,
    listener: &str,
    shards: u16,
    start: &LogBound,
) -> Result<(), CheckpointError> {
    let old = old_shards(tx, listener).await?;
    if old.iter().any(|old| old.shard_count == shards) {
        return Ok(());
    }
    let epoch = old.iter().map(|old| old.epoch).max().unwrap_or(0);
    // The rows are locked, so all progress in them was committed before now.
    let now = read_bound(&mut *tx, 0).await?.snapshot;
    let progress = carry_over(&old, &now).unwrap_or_else(|| new_shard(start));
    if !old.is_empty() {
        let was = old.len();
        tracing::info!(listener, was, shards, "resharding");
        sqlx::query("delete from observer.checkpoint where listener = $1 and shard >= $2")
            .bind(listener)
            .bind(smallint(shards))
            .execute(&mut *tx)
            .await?;
    }
    insert(tx, listener, shards, epoch, &progress).await
}

/// Creates the shards of a listener that has never run. Changes nothing if it has.
pub(crate) async fn create_shards(
    tx: &mut PgConnection,
    listener: &str,
    shards: u16,
    start: &LogBound,
) -> Result<(), CheckpointError> {
    if old_shards(tx, listener).await?.is_empty() {
        insert(tx, listener, shards, 0, &new_shard(start)).await?;
    }
    Ok(())
}

/// Returns the progress of a new shard.
fn new_shard(start: &LogBound) -> Progress {
    Progress {
        position: Position::at(Arc::new(start.clone())),
        completed_ahead: super::CompletedAhead::default(),
        pre_reshard: Arc::default(),
    }
}

async fn old_shards(
    tx: &mut PgConnection,
    listener: &str,
) -> Result<Vec<OldShard>, CheckpointError> {
    // There may be no row yet that could be locked.
    sqlx::query("select observer.lock('checkpoint/' || $1)")
        .bind(listener)
        .execute(&mut *tx)
        .await?;
    let sql = format!(
        "select c.shard, c.shards, c.epoch, {POSITION_COLUMNS}, {COLUMNS}
         from observer.checkpoint c where listener = $1 order by shard for update"
    );
    let rows = sqlx::query(AssertSqlSafe(sql))
        .bind(listener)
        .fetch_all(&mut *tx)
        .await?;
    let read = |row| -> Result<OldShard, CheckpointError> {
        let (shard, shard_count): (i16, i16) =
            (Row::try_get(row, "shard")?, Row::try_get(row, "shards")?);
        let (shard, shard_count) = (shard.unsigned_abs(), shard_count.unsigned_abs());
        Ok(OldShard {
            shard_count,
            shard,
            epoch: Row::try_get(row, "epoch")?,
            progress: row::progress(row, listener, shard)?,
        })
    };
    rows.iter().map(read).collect()
}

/// Returns the progress that each new shard starts with; `None` if there are no old ones. `now` sees
/// all that these had completed.
fn carry_over(old: &[OldShard], now: &Snapshot) -> Option<Progress> {
    let positions = old.iter().map(|old| &old.progress.position);
    let position = Position::earliest(positions)?;
    let mut carried: Vec<PreReshardProgress> = Vec::new();
    for old in old {
        let own = PreReshardProgress {
            shard_count: old.shard_count,
            shard: old.shard,
            position: old.progress.position.clone(),
            completed_ahead: old.progress.completed_ahead.clone(),
            until: now.clone(),
        };
        // Several old shards may carry the same progress of those before them.
        for one in std::iter::once(&own).chain(&*old.progress.pre_reshard) {
            if !carried.contains(one) && is_relevant(one, &position) {
                carried.push(one.clone());
            }
        }
    }
    Some(Progress {
        position,
        completed_ahead: super::CompletedAhead::default(),
        pre_reshard: carried.into(),
    })
}

/// Returns whether it matters to a shard that starts at `position`.
fn is_relevant(one: &PreReshardProgress, position: &Position) -> bool {
    let the_same =
        position == &one.position && one.completed_ahead == super::CompletedAhead::default();
    !(the_same || one.is_passed_by(position))
}

async fn insert(
    tx: &mut PgConnection,
    listener: &str,
    shards: u16,
    epoch: i64,
    progress: &Progress,
) -> Result<(), CheckpointError> {
    // What was saved in another database is refused later, and must not seem to be of this one.
    let insertion = sqlx::query(
        "with here as (
             select coalesce(c.system_identifier, s.system_identifier) as system_identifier,
                    coalesce(c.database_oid, d.oid) as database_oid
             from pg_control_system() s
             join pg_database d on d.datname = current_database()
             left join (select * from observer.checkpoint where listener = $1 limit 1) c on true
         )
         insert into observer.checkpoint as c
             (listener, shard, shards, epoch, holder, base_low_id, base_snapshot, base_high_id,
              window_low_id, window_snapshot, window_high_id, last_id, pre_reshard_progress,
              system_identifier, database_oid)
         select $1, shard, $2, $3, '', $4, $5::pg_snapshot, $6, $7, $8::pg_snapshot, $9, $10, $11::json,
                here.system_identifier, here.database_oid
         from here, generate_series(0, $2 - 1) as shard
         on conflict (listener, shard) do update
         set shards = excluded.shards, epoch = excluded.epoch + 1, holder = '',
             base_low_id = excluded.base_low_id, base_snapshot = excluded.base_snapshot,
             base_high_id = excluded.base_high_id, window_low_id = excluded.window_low_id,
             window_snapshot = excluded.window_snapshot, window_high_id = excluded.window_high_id,
             last_id = excluded.last_id, completed_ids = '{}', partially_completed = '[]',
             pre_reshard_progress = excluded.pre_reshard_progress,
             saved_at = clock_timestamp()",
    )
    .bind(listener)
    .bind(smallint(shards))
    .bind(epoch);
    stored_position::bind(insertion, &progress.position)
        .bind(row::pre_reshard_progress(&progress.pre_reshard)?)
        .execute(tx)
        .await?;
    Ok(())
}

#[cfg(test)]
mod tests;
