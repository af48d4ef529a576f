//! Taking hold of a shard.

use ::queue::sql_transaction;
use crds::config::StartAt;
use sqlx::postgres::PgRow;
use sqlx::{AssertSqlSafe, PgConnection, PgPool, Row};
use uuid::Uuid;

use super::reshard::{lay_out, lay_out_first};
use super::row::{self, COLUMNS};
use super::{CheckpointError, Progress};
use crate::capture::change_log::{ChangeLog, LogError, read_bound, smallint};
use crate::capture::position::LogBound;
use crate::capture::reader::PositionAheadOfDatabase;

/// Who claims shards of what.
#[derive(Clone, Copy, Debug)]
pub struct Candidate<'a> {
    /// The listener.
    pub listener: &'a str,
    /// Names this process, for people to read.
    pub holder: &'a str,
    /// How many shards the listener is to have.
    pub shards: u16,
    /// Where a listener begins that has never run.
    pub start: StartAt,
}

/// A shard that this process owns until another claims it.
#[derive(Clone, Debug)]
pub struct ClaimedShard {
    /// Its number.
    pub shard: u16,
    /// The epoch that its saves must carry.
    pub epoch: i64,
    /// Where it stands.
    pub progress: Progress,
    /// Who held it before and did not let go of it, where that is known.
    pub taken_from: Option<String>,
}

/// The life that the server lives; begun if it has just recovered.
pub async fn life(pool: &PgPool) -> Result<Uuid, CheckpointError> {
    sqlx::query("insert into observer.server_incarnation default values on conflict do nothing")
        .execute(pool)
        .await?;
    let life = sqlx::query_scalar("select id from observer.server_incarnation");
    Ok(life.fetch_one(pool).await?)
}

/// Gives a listener that has never run its place in the log, and says whether it did. One that has
/// keeps its own.
pub async fn begin(
    pool: &PgPool,
    log: &ChangeLog,
    listener: &str,
    shards: u16,
    start: StartAt,
) -> Result<bool, CheckpointError> {
    let there = "select exists (select from observer.checkpoint where listener = $1)";
    let there = sqlx::query_scalar(there).bind(listener);
    if there.fetch_one(pool).await? {
        return Ok(false);
    }
    let start = first_bound(log, start).await?;
    let mut tx = sql_transaction::begin(pool).await?;
    lay_out_first(&mut tx, listener, shards, &start).await?;
    tx.commit().await?;
    Ok(true)
}

/// Where a listener begins that has never run.
async fn first_bound(log: &ChangeLog, start: StartAt) -> Result<LogBound, LogError> {
    match start {
        StartAt::Beginning => Ok(LogBound::genesis()),
        StartAt::Now => log.current_bound().await,
    }
}

/// Claims a shard: from now on the saves of whoever held it before are refused.
///
/// If the listener had another number of shards, all of it is laid out anew first, so nobody may
/// be at work under the other number who is to save what he does. Refuses, and changes nothing,
/// when the saved position is not of this database or lies ahead of it.
pub async fn claim(
    pool: &PgPool,
    log: &ChangeLog,
    who: Candidate<'_>,
    shard: u16,
) -> Result<ClaimedShard, CheckpointError> {
    let mut tx = sql_transaction::begin(pool).await?;
    let claimed = if let Some(row) = take(&mut tx, who, shard).await? {
        row
    } else {
        let start = first_bound(log, who.start).await?;
        lay_out(&mut tx, who.listener, who.shards, &start).await?;
        let row = take(&mut tx, who, shard).await?;
        row.ok_or_else(|| CheckpointError::Damaged {
            listener: who.listener.to_owned(),
            shard,
            reason: "its row is missing, and those of other shards are there".to_owned(),
        })?
    };
    // The row is locked, so nothing beyond this moment can have been saved. No lower bound is needed to
    // compare with it.
    let now = read_bound(&mut *tx, 0).await?;
    let claimed = read(&claimed, who.listener, shard, &now)?;
    tx.commit().await?;
    Ok(claimed)
}

/// Draws an epoch for the shard, if the listener has as many shards as it should.
async fn take(
    tx: &mut PgConnection,
    who: Candidate<'_>,
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
         returning c.epoch, before.holder, {COLUMNS},
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
    let latest = position.latest_bound();
    if !now.snapshot.covers(&latest.snapshot) || latest.high_id > now.high_id {
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
