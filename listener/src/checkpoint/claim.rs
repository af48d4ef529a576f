//! Claims of shards: the first checkpoint of a listener, and the epochs of owners.

use ::queue::sql_transaction;
use crds::config::StartAt;
use sqlx::postgres::PgRow;
use sqlx::{AssertSqlSafe, PgConnection, PgPool, Row};
use uuid::Uuid;

use super::reshard::{create_shards, reshard};
use super::row::{self, COLUMNS};
use super::{CheckpointError, Progress};
use crate::backfill;
use crate::capture::change_log::{ChangeLog, LogError, read_bound, smallint};
use crate::capture::position::LogBound;
use crate::capture::reader::PositionAheadOfDatabase;
use crate::capture::stored_position::COLUMNS as POSITION_COLUMNS;

/// The process that claims shards of a listener.
#[derive(Clone, Copy, Debug)]
pub struct ShardClaimant<'a> {
    /// The listener.
    pub listener: &'a str,
    /// The name of this process, for people.
    pub holder: &'a str,
    /// The configured number of shards.
    pub shards: u16,
    /// Where a listener starts that has never run.
    pub start: StartAt,
}

/// A shard that this process owns until another one claims it.
#[derive(Clone, Debug)]
pub struct ClaimedShard {
    /// Its number.
    pub shard: u16,
    /// The epoch that its commits must carry.
    pub epoch: i64,
    /// Its stored progress.
    pub progress: Progress,
    /// The previous owner, if it did not release the shard.
    pub taken_from: Option<String>,
}

/// Returns the server incarnation, which is created after each crash recovery.
pub async fn server_incarnation(pool: &PgPool) -> Result<Uuid, CheckpointError> {
    sqlx::query("insert into observer.server_incarnation default values on conflict do nothing")
        .execute(pool)
        .await?;
    let id = sqlx::query_scalar("select id from observer.server_incarnation");
    Ok(id.fetch_one(pool).await?)
}

/// Creates the checkpoints of a listener that has never run. Returns whether it did; those of one
/// that has run stay. With [`StartAt::Backfill`], it asks for backfills of these entities.
pub async fn initialize(
    pool: &PgPool,
    log: &ChangeLog,
    listener: &str,
    shards: u16,
    start: (StartAt, &[String]),
) -> Result<bool, CheckpointError> {
    let has_run = "select exists (select from observer.checkpoint where listener = $1)";
    let has_run = sqlx::query_scalar(has_run).bind(listener);
    if has_run.fetch_one(pool).await? {
        return Ok(false);
    }
    let (start, entities) = start;
    let bound = first_bound(log, start).await?;
    let mut tx = sql_transaction::begin(pool).await?;
    create_shards(&mut tx, listener, shards, &bound).await?;
    if start == StartAt::Backfill {
        backfill::start_initial(&mut tx, listener, entities).await?;
    }
    tx.commit().await?;
    Ok(true)
}

/// Returns the bound from which a listener starts that has never run.
async fn first_bound(log: &ChangeLog, start: StartAt) -> Result<LogBound, LogError> {
    match start {
        StartAt::Beginning => Ok(LogBound::genesis()),
        StartAt::Now | StartAt::Backfill => log.current_bound().await,
    }
}

/// Claims a shard: from now on commits of its previous owner are refused.
///
/// If the listener had another number of shards, it is resharded first, which fences every owner
/// under the other number. Fails, and changes nothing, when the stored position is of another
/// database or ahead of this one.
pub async fn claim(
    pool: &PgPool,
    log: &ChangeLog,
    who: ShardClaimant<'_>,
    shard: u16,
) -> Result<ClaimedShard, CheckpointError> {
    let mut tx = sql_transaction::begin(pool).await?;
    let claimed = if let Some(row) = acquire(&mut tx, who, shard).await? {
        row
    } else {
        let start = first_bound(log, who.start).await?;
        reshard(&mut tx, who.listener, who.shards, &start).await?;
        let row = acquire(&mut tx, who, shard).await?;
        row.ok_or_else(|| CheckpointError::Corrupted {
            listener: who.listener.to_owned(),
            shard,
            reason: "its row is missing, and those of other shards are there".to_owned(),
        })?
    };
    // The row is locked, so nothing after this bound can have been saved. Comparing needs no
    // watermark.
    let now = read_bound(&mut *tx, 0).await?;
    let claimed = read(&claimed, who.listener, shard, &now)?;
    tx.commit().await?;
    Ok(claimed)
}

/// Draws a new epoch for the shard, if the listener has the configured number of shards.
async fn acquire(
    tx: &mut PgConnection,
    who: ShardClaimant<'_>,
    shard: u16,
) -> Result<Option<PgRow>, CheckpointError> {
    let sql = format!(
        "with before as (
             select listener, shard, holder from observer.checkpoint
             where listener = $1 and shard = $2 and shards = $3 for update
         )
         update observer.checkpoint c
         set epoch = c.epoch + 1, holder = $4, claimed_at = clock_timestamp()
         from before
         where c.listener = before.listener and c.shard = before.shard
         returning c.epoch, before.holder, {POSITION_COLUMNS}, {COLUMNS},
                   c.system_identifier || '/' || c.database_oid as there,
                   (select system_identifier from pg_control_system()) || '/'
                       || (select oid from pg_database where datname = current_database()) as here"
    );
    let row = sqlx::query(AssertSqlSafe(sql))
        .bind(who.listener)
        .bind(smallint(shard))
        .bind(smallint(who.shards))
        .bind(who.holder)
        .fetch_optional(tx)
        .await?;
    Ok(row)
}

fn read(
    row: &PgRow,
    listener: &str,
    shard: u16,
    now: &LogBound,
) -> Result<ClaimedShard, CheckpointError> {
    let (there, here): (String, String) = (row.try_get("there")?, row.try_get("here")?);
    if there != here {
        return Err(CheckpointError::Foreign {
            listener: listener.to_owned(),
            saved: there,
            here,
        });
    }
    let progress = row::progress(row, listener, shard)?;
    let position = &progress.position;
    if !now.covers(position.latest_bound()) {
        return Err(PositionAheadOfDatabase {
            listener: listener.to_owned(),
        }
        .into());
    }
    let holder: String = row.try_get("holder")?;
    Ok(ClaimedShard {
        shard,
        epoch: row.try_get("epoch")?,
        progress,
        taken_from: Some(holder).filter(|holder| !holder.is_empty()),
    })
}
