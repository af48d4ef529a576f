//! Taking hold of shards.

use std::sync::Arc;

use crds::config::StartAt;
use sqlx::postgres::PgRow;
use sqlx::{PgPool, Row};
use uuid::Uuid;

use super::{Beyond, CheckpointError, PartlyDone, Progress};
use crate::source::log::{Log, Tenure};
use crate::source::position::{Mark, Position};
use crate::source::reader::Ahead;

/// A shard that this process owns until another claims it.
#[derive(Clone, Debug)]
pub struct ClaimedShard {
    /// Its number.
    pub shard: i16,
    /// The epoch that its saves must carry.
    pub epoch: i64,
    /// Where it stands.
    pub progress: Progress,
}

/// All shards of a listener, claimed by one holder.
#[derive(Clone, Debug)]
pub struct Claim {
    /// By what right the shards are read and saved.
    pub tenure: Tenure,
    /// The shards in order.
    pub shards: Vec<ClaimedShard>,
    /// Who held them before, where that is known.
    pub taken_from: Option<String>,
}

/// Claims all shards of a listener; one that has never run begins at `start`.
///
/// Refuses, and changes nothing, when the saved positions are not of this database, lie ahead
/// of it, or were made for another number of shards.
pub async fn claim(
    pool: &PgPool,
    log: &Log,
    listener: &str,
    holder: &str,
    shards: u16,
    start: StartAt,
) -> Result<Claim, CheckpointError> {
    let start = match start {
        StartAt::Beginning => Mark::genesis(),
        StartAt::Now => log.mark().await?,
    };
    sqlx::query("insert into observer.life default values on conflict do nothing")
        .execute(pool)
        .await?;
    let mut tx = pool.begin().await?;
    let life: Uuid = sqlx::query_scalar("select id from observer.life")
        .fetch_one(&mut *tx)
        .await?;
    let taken_from: Option<String> = sqlx::query_scalar(
        "select max(holder) from observer.checkpoint where listener = $1 and holder not in ('', $2)",
    )
    .bind(listener)
    .bind(holder)
    .fetch_one(&mut *tx)
    .await?;
    let rows = sqlx::query(
        "with here as (
             select (select system_identifier from pg_control_system()) as system_identifier,
                    (select oid from pg_database where datname = current_database()) as database_oid
         ), claimed as (
             insert into observer.checkpoint as c
                 (listener, shard, shards, epoch, holder, from_floor, from_snapshot, from_ceiling,
                  system_identifier, database_oid)
             select $1, shard, $2, 1, $3, $4, $5::pg_snapshot, $6, here.system_identifier, here.database_oid
             from here, generate_series(0, $2 - 1) as shard
             on conflict (listener, shard) do update
             set epoch = c.epoch + 1, holder = excluded.holder, claimed_at = clock_timestamp()
             returning *
         )
         select shard, shards, epoch, from_floor, from_snapshot::text, from_ceiling,
                to_floor, to_snapshot::text, to_ceiling, last_id, finished, partly::text,
                claimed.system_identifier || '/' || claimed.database_oid,
                here.system_identifier || '/' || here.database_oid,
                (select count(*) from observer.checkpoint where listener = $1 and shard >= $2)
         from claimed, here order by shard",
    )
    .bind(listener)
    .bind(i16::try_from(shards).unwrap_or(i16::MAX))
    .bind(holder)
    .bind(start.floor)
    .bind(start.snapshot.to_string())
    .bind(start.ceiling)
    .fetch_all(&mut *tx)
    .await?;
    // The rows are locked, so nothing beyond this mark can have been saved.
    let now = log.mark().await?;
    let mut claimed = Vec::with_capacity(rows.len());
    for row in &rows {
        claimed.push(read(row, listener, shards, &now)?);
    }
    tx.commit().await?;
    Ok(Claim {
        tenure: Tenure {
            listener: Arc::from(listener),
            holder: Arc::from(holder),
            life,
            shards: claimed.len(),
        },
        shards: claimed,
        taken_from,
    })
}

fn read(
    row: &PgRow,
    listener: &str,
    wanted: u16,
    now: &Mark,
) -> Result<ClaimedShard, CheckpointError> {
    let shard: i16 = row.try_get(0)?;
    let saved: i16 = row.try_get(1)?;
    let beyond: i64 = row.try_get(14)?;
    if i32::from(saved) != i32::from(wanted) || beyond > 0 {
        return Err(CheckpointError::Shards {
            listener: listener.to_owned(),
            saved,
            wanted,
        });
    }
    let (there, here): (String, String) = (row.try_get(12)?, row.try_get(13)?);
    if there != here {
        return Err(CheckpointError::Foreign {
            listener: listener.to_owned(),
            saved: there,
            here,
        });
    }
    let damaged = |reason: String| CheckpointError::Damaged {
        listener: listener.to_owned(),
        shard,
        reason,
    };
    let mark = |floor: i64, snapshot: &str, ceiling: i64| {
        let snapshot = snapshot
            .parse()
            .map_err(|error: crate::source::snapshot::SnapshotError| damaged(error.to_string()))?;
        Ok::<_, CheckpointError>(Arc::new(Mark {
            floor,
            snapshot,
            ceiling,
        }))
    };
    let from = mark(row.try_get(3)?, row.try_get(4)?, row.try_get(5)?)?;
    let to = match row.try_get::<Option<&str>, _>(7)? {
        Some(snapshot) => Some(mark(row.try_get(6)?, snapshot, row.try_get(8)?)?),
        None => None,
    };
    let furthest = to.as_ref().unwrap_or(&from);
    if !now.snapshot.covers(&furthest.snapshot) || furthest.ceiling > now.ceiling {
        return Err(Ahead {
            listener: listener.to_owned(),
        }
        .into());
    }
    let mut beyond = Beyond {
        finished: row.try_get::<Vec<i64>, _>(10)?.into_iter().collect(),
        ..Beyond::default()
    };
    let partly: Vec<PartlyDone> =
        serde_json::from_str(row.try_get(11)?).map_err(|error| damaged(error.to_string()))?;
    for PartlyDone(id, observer, action) in partly {
        beyond
            .partly
            .entry(id)
            .or_default()
            .push((observer, action));
    }
    let position = Position {
        from,
        to,
        last_id: row.try_get(9)?,
    };
    Ok(ClaimedShard {
        shard,
        epoch: row.try_get(2)?,
        progress: Progress { position, beyond },
    })
}
