//! Saving, fenced: one statement for all shards, one transaction with the dead letters that
//! let their positions pass.

use sqlx::{PgPool, Postgres, Transaction};

use super::{CheckpointError, PartlyDone, Progress};
use crate::queue::dead_letter::{self, Letter, Verdict};
use crate::source::log::Tenure;

/// What one transaction writes.
#[derive(Clone, Debug, Default)]
pub struct Save {
    /// Shards that moved: number, epoch, and where they stand.
    pub shards: Vec<(i16, i64, Progress)>,
    /// Dead letters for actions that the positions pass.
    pub letters: Vec<Letter>,
    /// What came of redriven dead letters.
    pub verdicts: Vec<Verdict>,
}

impl Save {
    /// Whether there is nothing to write.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.shards.is_empty() && self.letters.is_empty() && self.verdicts.is_empty()
    }
}

/// Writes all of it or nothing.
///
/// Fails with [`CheckpointError::Fenced`] when a shard has changed hands since it was claimed, and
/// with [`CheckpointError::NewLife`] when the server has recovered from a crash since. Writing
/// the same again, after an answer was lost, changes nothing.
pub async fn save(pool: &PgPool, tenure: &Tenure, what: &Save) -> Result<(), CheckpointError> {
    let listener = &tenure.listener;
    let mut tx = pool.begin().await?;
    let (alive, held): (bool, bool) = sqlx::query_as(
        "select exists (select from observer.life where id = $3),
                exists (select from observer.checkpoint where listener = $1 and holder = $2 for share)",
    )
    .bind(&**listener)
    .bind(&*tenure.holder)
    .bind(tenure.life)
    .fetch_one(&mut *tx)
    .await?;
    if !held {
        return Err(CheckpointError::Fenced {
            listener: listener.to_string(),
        });
    }
    if !alive {
        return Err(CheckpointError::NewLife);
    }
    if !what.shards.is_empty() {
        positions(&mut tx, listener, &what.shards).await?;
    }
    dead_letter::insert(&mut tx, listener, &what.letters).await?;
    dead_letter::settle(&mut tx, listener, &what.verdicts).await?;
    tx.commit().await?;
    Ok(())
}

/// Lets go of a listener's shards at the end of a graceful stop.
pub(crate) async fn release(pool: &PgPool, tenure: &Tenure) -> Result<(), CheckpointError> {
    sqlx::query("update observer.checkpoint set holder = '' where listener = $1 and holder = $2")
        .bind(&*tenure.listener)
        .bind(&*tenure.holder)
        .execute(pool)
        .await?;
    Ok(())
}

async fn positions(
    tx: &mut Transaction<'_, Postgres>,
    listener: &str,
    shards: &[(i16, i64, Progress)],
) -> Result<(), CheckpointError> {
    let position = |n: usize| &shards[n].2.position;
    let all = 0..shards.len();
    let column = |of: &dyn Fn(usize) -> Option<i64>| all.clone().map(of).collect::<Vec<_>>();
    let updated = sqlx::query(SAVE)
        .bind(listener)
        .bind(shards.iter().map(|shard| shard.0).collect::<Vec<_>>())
        .bind(shards.iter().map(|shard| shard.1).collect::<Vec<_>>())
        .bind(column(&|n| Some(position(n).from.floor)))
        .bind(
            all.clone()
                .map(|n| position(n).from.snapshot.to_string())
                .collect::<Vec<_>>(),
        )
        .bind(column(&|n| Some(position(n).from.ceiling)))
        .bind(column(&|n| position(n).to.as_ref().map(|to| to.floor)))
        .bind(
            all.clone()
                .map(|n| position(n).to.as_ref().map(|to| to.snapshot.to_string()))
                .collect::<Vec<_>>(),
        )
        .bind(column(&|n| position(n).to.as_ref().map(|to| to.ceiling)))
        .bind(column(&|n| Some(position(n).last_id)))
        .bind(
            all.clone()
                .map(|n| finished(&shards[n].2))
                .collect::<Vec<_>>(),
        )
        .bind(
            all.clone()
                .map(|n| partly(&shards[n].2))
                .collect::<Vec<_>>(),
        )
        .execute(&mut **tx)
        .await?
        .rows_affected();
    if usize::try_from(updated).is_ok_and(|updated| updated == shards.len()) {
        return Ok(());
    }
    Err(CheckpointError::Fenced {
        listener: listener.to_owned(),
    })
}

/// Forward only: a window never begins earlier, and within one the id never falls. Postgres
/// does not compare snapshots, but of two taken one after the other both ends only grow.
const SAVE: &str = "
    update observer.checkpoint c
    set from_floor = new.from_floor, from_snapshot = new.from_snapshot, from_ceiling = new.from_ceiling,
        to_floor = new.to_floor, to_snapshot = new.to_snapshot, to_ceiling = new.to_ceiling,
        last_id = new.last_id, finished = new.finished::bigint[], partly = new.partly, saved_at = clock_timestamp()
    from unnest($2::smallint[], $3::bigint[], $4::bigint[], $5::text[]::pg_snapshot[], $6::bigint[],
                $7::bigint[], $8::text[]::pg_snapshot[], $9::bigint[], $10::bigint[], $11::text[], $12::text[]::json[])
         as new(shard, epoch, from_floor, from_snapshot, from_ceiling,
                to_floor, to_snapshot, to_ceiling, last_id, finished, partly)
    where c.listener = $1 and c.shard = new.shard and c.epoch = new.epoch
      and case when new.from_snapshot::text = c.from_snapshot::text
               then c.to_snapshot is null
                    or (new.to_snapshot::text = c.to_snapshot::text and new.last_id >= c.last_id)
               else pg_snapshot_xmax(new.from_snapshot) >= pg_snapshot_xmax(c.from_snapshot)
                    and pg_snapshot_xmin(new.from_snapshot) >= pg_snapshot_xmin(c.from_snapshot)
          end";

fn finished(progress: &Progress) -> String {
    let ids: Vec<String> = progress
        .beyond
        .finished
        .iter()
        .map(i64::to_string)
        .collect();
    format!("{{{}}}", ids.join(","))
}

fn partly(progress: &Progress) -> String {
    let rows: Vec<PartlyDone> = progress
        .beyond
        .partly
        .iter()
        .flat_map(|(id, actions)| {
            actions
                .iter()
                .map(|(observer, action)| PartlyDone(*id, observer.clone(), action.clone()))
        })
        .collect();
    serde_json::to_string(&rows).unwrap_or_else(|_| "[]".to_owned())
}
