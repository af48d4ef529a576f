//! Saving, fenced: one statement for all shards, one transaction with the jobs and the dead letters
//! that let their positions pass.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use ::queue::sql_transaction::begin;
use ::queue::{JobQueue, failpoint};
use sqlx::{PgPool, Postgres, Row, Transaction};
use tokio::time::Instant;
use uuid::Uuid;

use super::row;
use super::{CheckpointError, Progress};
use crate::capture::change_log::smallint;
use crate::dead_letters::store::{self, Letter, Verdict};
use crate::delivery::event::Event;
use crate::jobs::backend;
use crate::jobs::payload::Spilled;

/// No more jobs are sent at once after this many bytes of their events.
const PORTION_BYTES: u64 = 4 << 20;

/// What one transaction writes.
#[derive(Clone, Debug, Default)]
pub struct Save {
    /// Unlike that of any other save.
    pub id: Uuid,
    /// The shards that any of the rest is of, with the epochs of their claims.
    pub epochs: BTreeMap<u16, i64>,
    /// Where shards stand that moved.
    pub moved: Vec<(u16, Progress)>,
    /// Dead letters for actions that the positions pass.
    pub letters: Vec<(u16, Letter)>,
    /// Deliveries that become jobs, which the positions pass too.
    pub jobs: Vec<(u16, Spilled)>,
    /// What came of redriven dead letters.
    pub verdicts: Vec<(u16, Verdict)>,
    /// Shards that are let go of.
    pub released: BTreeSet<u16>,
}

impl Save {
    /// Whether there is nothing to write.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.moved.is_empty()
            && self.letters.is_empty()
            && self.jobs.is_empty()
            && self.verdicts.is_empty()
            && self.released.is_empty()
    }

    /// Takes out all that is of some shards, and gives back the events that this held on to.
    pub fn leave_out(&mut self, shards: &BTreeSet<u16>) -> Vec<Arc<Event>> {
        self.epochs.retain(|shard, _| !shards.contains(shard));
        self.moved.retain(|(shard, _)| !shards.contains(shard));
        self.verdicts.retain(|(shard, _)| !shards.contains(shard));
        self.released.retain(|shard| !shards.contains(shard));
        let is_out = |shard: u16| shards.contains(&shard);
        let letters = self.letters.extract_if(.., |(shard, _)| is_out(*shard));
        let mut out: Vec<Arc<Event>> = letters.map(|(_, letter)| letter.event).collect();
        let jobs = self.jobs.extract_if(.., |(shard, _)| is_out(*shard));
        out.extend(jobs.map(|(_, spilled)| spilled.event));
        out
    }

    /// The events that it holds on to until it is written.
    pub fn holds(&self) -> impl Iterator<Item = &Arc<Event>> {
        let letters = self.letters.iter().map(|(_, letter)| &letter.event);
        letters.chain(self.jobs.iter().map(|(_, spilled)| &spilled.event))
    }
}

/// What came of a save.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Saved {
    /// All of it is written.
    Done,
    /// Nothing is written, because other processes have claimed these shards since.
    Fenced(BTreeSet<u16>),
}

/// Writes all of it or nothing.
///
/// Fails with [`CheckpointError::ServerRestarted`] when the server has recovered from a crash since
/// `life`, and with [`CheckpointError::QueueSwitched`] when it has jobs for a backend of the queue that
/// is not in use any more. Writing the same again, after an answer was lost, changes nothing.
pub async fn save(
    pool: &PgPool,
    queue: &dyn JobQueue,
    listener: &str,
    life: Uuid,
    what: &Save,
) -> Result<Saved, CheckpointError> {
    let now = Instant::now();
    let mut tx = begin(pool).await?;
    failpoint!("save-begun");
    let fenced = fenced(&mut tx, listener, life, &what.epochs).await?;
    if !fenced.is_empty() {
        return Ok(Saved::Fenced(fenced));
    }
    failpoint!("save-owned");
    if !what.jobs.is_empty() && !name(&mut tx, listener, what).await? {
        // It was written before, and the answer was lost.
        return Ok(Saved::Done);
    }
    failpoint!("save-named");
    if !what.moved.is_empty() {
        let held_back = positions(&mut tx, listener, what).await?;
        if !held_back.is_empty() {
            // Somebody has moved them on under the same epoch, as only a repeated save does.
            return Ok(Saved::Fenced(held_back));
        }
    }
    failpoint!("save-moved");
    store::insert(
        &mut tx,
        listener,
        what.letters.iter().map(|(_, letter)| letter),
    )
    .await?;
    failpoint!("save-buried");
    store::settle(
        &mut tx,
        listener,
        what.verdicts.iter().map(|(_, verdict)| verdict),
    )
    .await?;
    failpoint!("save-settled");
    if !what.jobs.is_empty() {
        if !backend::is_current(&mut tx, listener, queue.backend()).await? {
            return Err(CheckpointError::QueueSwitched);
        }
        for jobs in portions(&what.jobs) {
            let jobs = jobs.iter().map(|(_, spilled)| spilled.job(now));
            let jobs = jobs.collect::<Result<Vec<_>, _>>()?;
            queue.enqueue(&mut tx, &jobs).await?;
        }
        failpoint!("save-jobs-added");
    }
    if !what.released.is_empty() {
        let released = what.released.iter().copied().map(smallint);
        sqlx::query(
            "update observer.checkpoint set holder = '' where listener = $1 and shard = any($2)",
        )
        .bind(listener)
        .bind(released.collect::<Vec<_>>())
        .execute(&mut *tx)
        .await?;
    }
    tx.commit().await?;
    failpoint!("save-committed");
    Ok(Saved::Done)
}

/// Jobs in their order, a few at a time where their events are large: what is sent takes as much
/// memory once more, and again.
fn portions(mut jobs: &[(u16, Spilled)]) -> impl Iterator<Item = &[(u16, Spilled)]> {
    std::iter::from_fn(move || {
        let mut bytes = 0;
        let fits = |(_, one): &&(u16, Spilled)| {
            let goes_on = bytes < PORTION_BYTES;
            bytes += one.event.bytes();
            goes_on
        };
        let (portion, left) = jobs.split_at(jobs.iter().take_while(fits).count());
        jobs = left;
        (!portion.is_empty()).then_some(portion)
    })
}

/// Leaves the name of a save with the shards that it has jobs of. Answers whether it was not there
/// yet.
async fn name(
    tx: &mut Transaction<'_, Postgres>,
    listener: &str,
    what: &Save,
) -> Result<bool, CheckpointError> {
    let shards: BTreeSet<u16> = what.jobs.iter().map(|(shard, _)| *shard).collect();
    let named = sqlx::query(
        "update observer.checkpoint set last_commit_id = $3
         where listener = $1 and shard = any($2) and last_commit_id is distinct from $3",
    )
    .bind(listener)
    .bind(shards.into_iter().map(smallint).collect::<Vec<_>>())
    .bind(what.id)
    .execute(&mut **tx)
    .await?;
    Ok(named.rows_affected() > 0)
}

/// Those of the shards that have other epochs now; the rest stay as they are until the
/// transaction ends.
async fn fenced(
    tx: &mut Transaction<'_, Postgres>,
    listener: &str,
    life: Uuid,
    epochs: &BTreeMap<u16, i64>,
) -> Result<BTreeSet<u16>, CheckpointError> {
    let row = sqlx::query(
        "select exists (select from observer.server_incarnation where id = $4),
                array(select claim.shard from unnest($2::smallint[], $3::bigint[]) as claim(shard, epoch)
                      where not exists (
                          select from observer.checkpoint c
                          where c.listener = $1 and c.shard = claim.shard and c.epoch = claim.epoch
                          for share))",
    )
    .bind(listener)
    .bind(epochs.keys().copied().map(smallint).collect::<Vec<_>>())
    .bind(epochs.values().copied().collect::<Vec<_>>())
    .bind(life)
    .fetch_one(&mut **tx)
    .await?;
    if !row.try_get::<bool, _>(0)? {
        return Err(CheckpointError::ServerRestarted);
    }
    let fenced: Vec<i16> = row.try_get(1)?;
    Ok(fenced.into_iter().map(i16::unsigned_abs).collect())
}

/// Moves positions, and gives the shards that were not to be moved.
async fn positions(
    tx: &mut Transaction<'_, Postgres>,
    listener: &str,
    what: &Save,
) -> Result<BTreeSet<u16>, CheckpointError> {
    let moved = &what.moved;
    let shards: Vec<i16> = moved.iter().map(|(shard, _)| smallint(*shard)).collect();
    let column = |of: &dyn Fn(&Progress) -> Option<i64>| {
        let values = moved.iter().map(|(_, progress)| of(progress));
        values.collect::<Vec<_>>()
    };
    let texts = |of: &dyn Fn(&Progress) -> Result<Option<String>, serde_json::Error>| {
        let values = moved.iter().map(|(_, progress)| of(progress));
        values.collect::<Result<Vec<_>, _>>()
    };
    let epoch = |shard: &u16| what.epochs.get(shard).copied().unwrap_or_default();
    let updated: Vec<i16> = sqlx::query_scalar(SAVE)
        .bind(listener)
        .bind(&shards)
        .bind(
            moved
                .iter()
                .map(|(shard, _)| epoch(shard))
                .collect::<Vec<_>>(),
        )
        .bind(column(&|progress| Some(progress.position.from.low_id)))
        .bind(texts(&|progress| {
            Ok(Some(progress.position.from.snapshot.to_string()))
        })?)
        .bind(column(&|progress| Some(progress.position.from.high_id)))
        .bind(column(&|progress| {
            Some(progress.position.to.as_ref()?.low_id)
        }))
        .bind(texts(&|progress| {
            let to = progress.position.to.as_ref();
            Ok(to.map(|to| to.snapshot.to_string()))
        })?)
        .bind(column(&|progress| {
            Some(progress.position.to.as_ref()?.high_id)
        }))
        .bind(column(&|progress| Some(progress.position.last_id)))
        .bind(texts(&|progress| {
            Ok(Some(row::finished(&progress.beyond)))
        })?)
        .bind(texts(&|progress| row::partly(&progress.beyond).map(Some))?)
        // What was inherited only shrinks, and is nothing soon.
        .bind(texts(&|progress| {
            row::inherited(&progress.inherited).map(Some)
        })?)
        .fetch_all(&mut **tx)
        .await?;
    let held_back = shards.iter().filter(|shard| !updated.contains(shard));
    Ok(held_back.map(|shard| shard.unsigned_abs()).collect())
}

/// Forward only: a window never begins earlier, and within one the id never falls. Postgres
/// does not compare snapshots, but of two taken one after the other both ends only grow.
const SAVE: &str = "
    update observer.checkpoint c
    set base_low_id = new.base_low_id, base_snapshot = new.base_snapshot, base_high_id = new.base_high_id,
        window_low_id = new.window_low_id, window_snapshot = new.window_snapshot, window_high_id = new.window_high_id,
        last_id = new.last_id, completed_ids = new.completed_ids::bigint[],
        partially_completed = new.partially_completed, pre_reshard_progress = new.pre_reshard_progress,
        saved_at = clock_timestamp()
    from unnest($2::smallint[], $3::bigint[], $4::bigint[], $5::text[]::pg_snapshot[], $6::bigint[],
                $7::bigint[], $8::text[]::pg_snapshot[], $9::bigint[], $10::bigint[], $11::text[],
                $12::text[]::json[], $13::text[]::json[])
         as new(shard, epoch, base_low_id, base_snapshot, base_high_id,
                window_low_id, window_snapshot, window_high_id, last_id, completed_ids, partially_completed,
                pre_reshard_progress)
    where c.listener = $1 and c.shard = new.shard and c.epoch = new.epoch
      and case when new.base_snapshot::text = c.base_snapshot::text
               then c.window_snapshot is null
                    or (new.window_snapshot::text = c.window_snapshot::text and new.last_id >= c.last_id)
               else pg_snapshot_xmax(new.base_snapshot) >= pg_snapshot_xmax(c.base_snapshot)
                    and pg_snapshot_xmin(new.base_snapshot) >= pg_snapshot_xmin(c.base_snapshot)
          end
    returning c.shard";

#[cfg(test)]
mod tests {
    use chrono::DateTime;
    use crds::config::Operation;

    use super::*;

    fn letter(id: i64) -> Letter {
        Letter {
            event: Arc::new(Event {
                log_id: id,
                id: format!("a-{id}"),
                hash: 0,
                entity: "public.orders".into(),
                operation: Operation::Insert,
                key: None,
                tenant: None,
                occurred_at: DateTime::UNIX_EPOCH,
                old: None,
                new: None,
            }),
            observer: "default/big".into(),
            action: "notify".into(),
            attempts: 1,
            history: Vec::new(),
        }
    }

    fn spilled(id: i64) -> Spilled {
        let letter = letter(id);
        Spilled {
            event: letter.event,
            name: (letter.observer, letter.action),
            again: None,
            replay: false,
            lane: None,
            key: 0,
            priority: ::queue::Priority::Normal,
            attempts: 1,
            history: Vec::new(),
            attempts_before: 0,
            due: Instant::now(),
        }
    }

    #[test]
    fn what_is_left_out_is_all_of_its_shards_and_gives_the_events_back() {
        let mut save = Save {
            epochs: BTreeMap::from([(1, 7), (2, 8)]),
            letters: vec![(1, letter(1)), (2, letter(2)), (1, letter(3))],
            jobs: vec![(1, spilled(4)), (2, spilled(5))],
            verdicts: vec![(1, Verdict::Settled(5)), (2, Verdict::Settled(6))],
            released: BTreeSet::from([1]),
            ..Save::default()
        };
        let out = save.leave_out(&BTreeSet::from([1]));
        let ids: Vec<i64> = out.iter().map(|event| event.log_id).collect();
        assert_eq!(ids, [1, 3, 4]);
        assert_eq!(save.epochs, BTreeMap::from([(2, 8)]));
        assert_eq!((save.letters.len(), save.verdicts.len()), (1, 1));
        assert!(save.released.is_empty() && !save.is_empty());
        let out = save.leave_out(&BTreeSet::from([2]));
        assert_eq!((out.len(), save.is_empty()), (2, true));
    }
}
