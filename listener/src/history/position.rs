//! Positions of the history in the change log, apart from those of deliveries. This module owns
//! `observer.search_position` and `observer.search_gap`.
//!
//! A position is a true statement whoever makes it: all before it has documents. So nothing is lost by
//! one that is older than it could be; what is read again is written again, and merged. Only an owner of
//! the shard may move it, so that one of another number of shards, or of another database, does not.

use std::sync::Arc;
use std::time::Duration;

use ::queue::sql_transaction::begin;
use chrono::{DateTime, Utc};
use crds::config::StartAt;
use sqlx::{AssertSqlSafe, PgConnection, PgPool, Row};

use crate::capture::change_log::{LogError, read_bound, smallint};
use crate::capture::position::Position;
use crate::capture::reader::Epoch;
use crate::capture::stored_position::{self, COLUMNS};
use crate::database::interval;

/// The history of a listener, as positions need to know it.
#[derive(Clone, Debug)]
pub struct PositionOwner {
    /// Identity of the listener.
    pub listener: Arc<str>,
    /// How many shards it has.
    pub shards: u16,
    /// Where it starts that has never run.
    pub start: StartAt,
    /// How long the log waits for the history.
    pub max_lag: Duration,
}

/// Gaps in the history of a listener.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Gaps {
    /// Their number.
    pub count: i64,
    /// When the latest was recorded.
    pub latest: Option<DateTime<Utc>>,
}

/// Returns the position of a shard. Where there is none for this number of shards, creates those of all
/// shards: at the earliest of the positions for another number, or where the listener's history begins.
///
/// One that is ahead of the database, which was restored, is where the log begins: documents are merged,
/// so that what they have already is not lost.
pub async fn load(pool: &PgPool, owner: &PositionOwner, shard: u16) -> Result<Position, LogError> {
    let mut tx = begin(pool).await?;
    let position = match find(&mut tx, owner, shard).await? {
        Some(position) => position,
        None => create(&mut tx, owner, shard).await?,
    };
    let now = read_bound(&mut *tx, 0).await?;
    tx.commit().await?;
    if now.covers(position.latest_bound()) {
        return Ok(position);
    }
    tracing::warn!(
        shard,
        "the history is ahead of this database, which was restored: it goes on with all that the log holds"
    );
    Ok(Position::genesis())
}

async fn find(
    tx: &mut PgConnection,
    owner: &PositionOwner,
    shard: u16,
) -> Result<Option<Position>, LogError> {
    let sql = format!(
        "update observer.search_position set max_lag = $4 where listener = $1 and shard = $2 and shards = $3
         returning {COLUMNS}"
    );
    let row = sqlx::query(AssertSqlSafe(sql))
        .bind(&*owner.listener)
        .bind(smallint(shard))
        .bind(smallint(owner.shards))
        .bind(interval(owner.max_lag))
        .fetch_optional(tx)
        .await?;
    row.as_ref().map(stored_position::read).transpose()
}

async fn create(
    tx: &mut PgConnection,
    owner: &PositionOwner,
    shard: u16,
) -> Result<Position, LogError> {
    // There may be no row yet that could be locked.
    sqlx::query("select observer.lock('search-position/' || $1)")
        .bind(&*owner.listener)
        .execute(&mut *tx)
        .await?;
    if let Some(position) = find(&mut *tx, owner, shard).await? {
        return Ok(position);
    }
    let old = all(&mut *tx, "search_position", owner).await?;
    let position = match Position::earliest(&old) {
        Some(earliest) => earliest,
        None if owner.start != StartAt::Beginning => {
            let delivered = all(&mut *tx, "checkpoint", owner).await?;
            Position::earliest(&delivered).unwrap_or_else(Position::genesis)
        }
        None => Position::genesis(),
    };
    sqlx::query("delete from observer.search_position where listener = $1")
        .bind(&*owner.listener)
        .execute(&mut *tx)
        .await?;
    let insertion = sqlx::query(
        "insert into observer.search_position
             (listener, shard, shards, base_low_id, base_snapshot, base_high_id, window_low_id, window_snapshot,
              window_high_id, last_id, max_lag)
         select $1, shard, $2, $3, $4::pg_snapshot, $5, $6, $7::pg_snapshot, $8, $9, $10
         from generate_series(0, $2 - 1) as shard",
    )
    .bind(&*owner.listener)
    .bind(smallint(owner.shards));
    stored_position::bind(insertion, &position)
        .bind(interval(owner.max_lag))
        .execute(&mut *tx)
        .await?;
    Ok(position)
}

/// Reads the positions of all shards, from a table with these columns.
async fn all(
    tx: &mut PgConnection,
    table: &str,
    owner: &PositionOwner,
) -> Result<Vec<Position>, LogError> {
    let sql = format!("select {COLUMNS} from observer.{table} where listener = $1");
    let rows = sqlx::query(AssertSqlSafe(sql))
        .bind(&*owner.listener)
        .fetch_all(tx)
        .await?;
    rows.iter().map(stored_position::read).collect()
}

/// Saves positions of shards that are owned under these epochs; those of others stay.
pub async fn save(
    pool: &PgPool,
    owner: &PositionOwner,
    reached: &[(u16, Epoch, Position)],
) -> Result<(), sqlx::Error> {
    let shards: Vec<i16> = reached.iter().map(|(one, ..)| smallint(*one)).collect();
    let epochs: Vec<Epoch> = reached.iter().map(|(_, epoch, _)| *epoch).collect();
    let positions: Vec<&Position> = reached.iter().map(|(_, _, at)| at).collect();
    let update = sqlx::query(
        "update observer.search_position p
         set base_low_id = new.base_low_id, base_snapshot = new.base_snapshot, base_high_id = new.base_high_id,
             window_low_id = new.window_low_id, window_snapshot = new.window_snapshot,
             window_high_id = new.window_high_id, last_id = new.last_id, max_lag = $4, saved_at = clock_timestamp()
         from unnest($2::smallint[], $3::bigint[], $6::bigint[], $7::text[]::pg_snapshot[], $8::bigint[],
                     $9::bigint[], $10::text[]::pg_snapshot[], $11::bigint[], $12::bigint[])
              as new(shard, epoch, base_low_id, base_snapshot, base_high_id,
                     window_low_id, window_snapshot, window_high_id, last_id)
         join observer.checkpoint c on c.listener = $1 and c.shard = new.shard and c.epoch = new.epoch
         where p.listener = $1 and p.shard = new.shard and p.shards = $5",
    )
    .bind(&*owner.listener)
    .bind(shards)
    .bind(epochs)
    .bind(interval(owner.max_lag))
    .bind(smallint(owner.shards));
    stored_position::bind_all(update, &positions)
        .execute(pool)
        .await?;
    Ok(())
}

/// Removes the positions of a listener without a history, or that of one shard, so that the log does not
/// wait for them.
pub async fn remove(pool: &PgPool, listener: &str, shard: Option<u16>) -> Result<(), sqlx::Error> {
    sqlx::query(
        "delete from observer.search_position where listener = $1 and ($2::smallint is null or shard = $2)",
    )
    .bind(listener)
    .bind(shard.map(smallint))
    .execute(pool)
    .await?;
    Ok(())
}

/// Returns the gaps of a listener.
pub async fn gaps(pool: &PgPool, listener: &str) -> Result<Gaps, sqlx::Error> {
    let row = sqlx::query(
        "select count(*), max(recorded_at) from observer.search_gap where listener = $1",
    )
    .bind(listener)
    .fetch_one(pool)
    .await?;
    Ok(Gaps {
        count: row.try_get(0)?,
        latest: row.try_get(1)?,
    })
}

/// Removes the gaps whose events would not be in the history any more.
pub async fn remove_old_gaps(
    pool: &PgPool,
    listener: &str,
    before: DateTime<Utc>,
) -> Result<(), sqlx::Error> {
    sqlx::query("delete from observer.search_gap where listener = $1 and to_time < $2")
        .bind(listener)
        .bind(before)
        .execute(pool)
        .await?;
    Ok(())
}
