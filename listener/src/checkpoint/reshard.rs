//! How many shards a listener has: laying out its checkpoints for the first time, or anew.
//!
//! A key belongs to another shard once the number of shards has changed, and the old shards stand
//! at different places. So each new shard begins where the last of the old ones stands, and knows
//! of every old one how far it was: what that had done of its keys is passed over.

use std::sync::Arc;

use sqlx::{AssertSqlSafe, PgConnection, Row};

use super::row::{self, COLUMNS};
use super::{CheckpointError, Inherited, Progress};
use crate::capture::change_log::{read_bound, smallint};
use crate::capture::position::{LogBound, Position};
use crate::capture::snapshot::Snapshot;

/// One shard as it was.
struct Old {
    of: u16,
    shard: u16,
    epoch: i64,
    progress: Progress,
}

/// Gives a listener as many shards as it is to have, within the caller's transaction. Where it has
/// them, nothing is changed. `start` is where one begins that has never run.
pub(crate) async fn lay_out(
    tx: &mut PgConnection,
    listener: &str,
    shards: u16,
    start: &LogBound,
) -> Result<(), CheckpointError> {
    let old = old_shards(tx, listener).await?;
    if old.iter().any(|old| old.of == shards) {
        return Ok(());
    }
    let epoch = old.iter().map(|old| old.epoch).max().unwrap_or(0);
    // The rows are locked, so all that they tell of was committed before this moment.
    let now = read_bound(&mut *tx, 0).await?.snapshot;
    let progress = inherit(&old, &now).unwrap_or_else(|| at(start));
    if !old.is_empty() {
        let was = old.len();
        tracing::info!(listener, was, shards, "laying the shards out anew");
        sqlx::query("delete from observer.checkpoint where listener = $1 and shard >= $2")
            .bind(listener)
            .bind(smallint(shards))
            .execute(&mut *tx)
            .await?;
    }
    insert(tx, listener, shards, epoch, &progress).await
}

/// The same, for a listener that has never run. Where it has, nothing is changed.
pub(crate) async fn lay_out_first(
    tx: &mut PgConnection,
    listener: &str,
    shards: u16,
    start: &LogBound,
) -> Result<(), CheckpointError> {
    if old_shards(tx, listener).await?.is_empty() {
        insert(tx, listener, shards, 0, &at(start)).await?;
    }
    Ok(())
}

/// Of a shard that nobody has worked on.
fn at(start: &LogBound) -> Progress {
    Progress {
        position: Position::at(Arc::new(start.clone())),
        beyond: super::Beyond::default(),
        inherited: Arc::default(),
    }
}

async fn old_shards(tx: &mut PgConnection, listener: &str) -> Result<Vec<Old>, CheckpointError> {
    // There may be no row yet that could be locked.
    sqlx::query("select observer.lock('checkpoint/' || $1)")
        .bind(listener)
        .execute(&mut *tx)
        .await?;
    let sql = format!(
        "select c.shard, c.shards, c.epoch, {COLUMNS}
         from observer.checkpoint c where listener = $1 order by shard for update"
    );
    let rows = sqlx::query(AssertSqlSafe(sql))
        .bind(listener)
        .fetch_all(&mut *tx)
        .await?;
    let read = |row| -> Result<Old, CheckpointError> {
        let (shard, of): (i16, i16) = (Row::try_get(row, "shard")?, Row::try_get(row, "shards")?);
        let (shard, of) = (shard.unsigned_abs(), of.unsigned_abs());
        Ok(Old {
            of,
            shard,
            epoch: Row::try_get(row, "epoch")?,
            progress: row::progress(row, listener, shard)?,
        })
    };
    rows.iter().map(read).collect()
}

/// Where each new shard begins, and what it knows of the old ones. Nothing if there were none.
/// `now` sees all that these had done.
fn inherit(old: &[Old], now: &Snapshot) -> Option<Progress> {
    let positions = old.iter().map(|old| &old.progress.position);
    let position = Position::earliest(positions)?;
    let mut known: Vec<Inherited> = Vec::new();
    for old in old {
        let own = Inherited {
            of: old.of,
            shard: old.shard,
            position: old.progress.position.clone(),
            beyond: old.progress.beyond.clone(),
            until: now.clone(),
        };
        // Old shards may have inherited the same from those before them.
        for one in std::iter::once(&own).chain(&*old.progress.inherited) {
            if !known.contains(one) && says_more(one, &position) {
                known.push(one.clone());
            }
        }
    }
    Some(Progress {
        position,
        beyond: super::Beyond::default(),
        inherited: known.into(),
    })
}

/// Whether it says anything about what a shard finds that begins at `position`.
fn says_more(one: &Inherited, position: &Position) -> bool {
    let the_same = position == &one.position && one.beyond == super::Beyond::default();
    !(the_same || one.is_behind(position))
}

async fn insert(
    tx: &mut PgConnection,
    listener: &str,
    shards: u16,
    epoch: i64,
    progress: &Progress,
) -> Result<(), CheckpointError> {
    let position = &progress.position;
    let to = position.to.as_ref();
    // What was saved in another database is refused later, and must not seem to be of this one.
    sqlx::query(
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
    .bind(epoch)
    .bind(position.from.low_id)
    .bind(position.from.snapshot.to_string())
    .bind(position.from.high_id)
    .bind(to.map(|to| to.low_id))
    .bind(to.map(|to| to.snapshot.to_string()))
    .bind(to.map(|to| to.high_id))
    .bind(position.last_id)
    .bind(row::inherited(&progress.inherited)?)
    .execute(tx)
    .await?;
    Ok(())
}

#[cfg(test)]
mod tests;
