//! Owner and progress of each shard, as the database stores them.

use chrono::{DateTime, Utc};
use serde::Serialize;
use sqlx::postgres::PgRow;
use sqlx::{PgPool, Row};

/// Maximum number of events scanned to find a shard's oldest.
const MAX_SCANNED: i64 = 10_000;

/// A shard's checkpoint, for people.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ShardState {
    /// The listener, `namespace/name` or the identity that it was given.
    pub listener: String,
    /// The shard.
    pub shard: i16,
    /// The number of shards.
    pub shards: i16,
    /// The process that owns it, by its own name; nothing if it was released. One that was killed
    /// stays until another takes over.
    pub owner: Option<String>,
    /// Grows with each claim; commits that carry an older one are refused.
    pub epoch: i64,
    /// Since when the owner has it, or since when it has none.
    pub since: DateTime<Utc>,
    /// When its progress was saved last.
    pub saved_at: DateTime<Utc>,
    /// When the oldest event that is not behind the saved progress was committed, about; nothing
    /// if there is none. Where many events of other shards come first, an earlier time.
    pub oldest: Option<DateTime<Utc>>,
}

/// Lists the shards of one listener, or of all, in order.
pub async fn list(pool: &PgPool, listener: Option<&str>) -> Result<Vec<ShardState>, sqlx::Error> {
    let rows = sqlx::query(
        "select c.listener, c.shard, c.shards, c.holder, c.epoch, c.claimed_at, c.saved_at,
                coalesce(min(event.occurred_at) filter (where event.hash % c.shards = c.shard),
                         case when count(event.id) >= $2 then max(event.occurred_at) end) as oldest
         from observer.checkpoint c
         left join lateral (
             select l.id, l.hash, l.occurred_at from observer.change_log l
             where l.id > greatest(c.base_low_id, case when c.window_snapshot is not null then c.last_id end)
                 and not pg_visible_in_snapshot(l.xid, c.base_snapshot)
                 and not l.id = any(c.completed_ids)
             order by l.id limit $2
         ) event on true
         where $1::text is null or c.listener = $1
         group by c.listener, c.shard
         order by c.listener, c.shard",
    )
    .bind(listener)
    .bind(MAX_SCANNED)
    .fetch_all(pool)
    .await?;
    rows.iter().map(read).collect()
}

fn read(row: &PgRow) -> Result<ShardState, sqlx::Error> {
    let holder: String = row.try_get("holder")?;
    let owner = Some(holder).filter(|holder| !holder.is_empty());
    let saved_at = row.try_get("saved_at")?;
    Ok(ShardState {
        listener: row.try_get("listener")?,
        shard: row.try_get("shard")?,
        shards: row.try_get("shards")?,
        since: match owner {
            Some(_) => row.try_get("claimed_at")?,
            None => saved_at,
        },
        owner,
        epoch: row.try_get("epoch")?,
        saved_at,
        oldest: row.try_get("oldest")?,
    })
}
