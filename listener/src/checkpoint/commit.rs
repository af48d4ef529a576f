//! The checkpoint commit: one fenced transaction with the positions of all shards, and the jobs and
//! dead letters that those positions pass.

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
use crate::capture::position::Position;
use crate::capture::stored_position;
use crate::dead_letters::store::{self, NewDeadLetter, RedriveResult};
use crate::delivery::event::Event;
use crate::jobs::backend;
use crate::jobs::payload::PendingJob;

/// A batch of jobs ends with the one whose event takes it past this many bytes.
const BATCH_BYTES: u64 = 4 << 20;

/// The contents of one checkpoint transaction.
#[derive(Clone, Debug, Default)]
pub struct CheckpointCommit {
    /// A unique id.
    pub id: Uuid,
    /// The epochs of the shards that the rest belongs to.
    pub epochs: BTreeMap<u16, i64>,
    /// The progress of shards that moved.
    pub positions: Vec<(u16, Progress)>,
    /// Dead letters of actions that the positions pass.
    pub dead_letters: Vec<(u16, NewDeadLetter)>,
    /// Jobs for deliveries that the positions pass.
    pub jobs: Vec<(u16, PendingJob)>,
    /// The results of redriven dead letters.
    pub redrive_results: Vec<(u16, RedriveResult)>,
    /// Shards to release.
    pub released_shards: BTreeSet<u16>,
}

impl CheckpointCommit {
    /// Returns whether there is nothing to write.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.positions.is_empty()
            && self.dead_letters.is_empty()
            && self.jobs.is_empty()
            && self.redrive_results.is_empty()
            && self.released_shards.is_empty()
    }

    /// Removes all that belongs to some shards, and returns the events that it retained.
    pub fn drop_shards(&mut self, shards: &BTreeSet<u16>) -> Vec<Arc<Event>> {
        self.epochs.retain(|shard, _| !shards.contains(shard));
        self.positions.retain(|(shard, _)| !shards.contains(shard));
        self.redrive_results
            .retain(|(shard, _)| !shards.contains(shard));
        self.released_shards.retain(|shard| !shards.contains(shard));
        let is_out = |shard: u16| shards.contains(&shard);
        let letters = self
            .dead_letters
            .extract_if(.., |(shard, _)| is_out(*shard));
        let mut out: Vec<Arc<Event>> = letters.map(|(_, letter)| letter.event).collect();
        let jobs = self.jobs.extract_if(.., |(shard, _)| is_out(*shard));
        out.extend(jobs.map(|(_, spilled)| spilled.event));
        out
    }

    /// Returns the events that it retains until it is written.
    pub fn retained_events(&self) -> impl Iterator<Item = &Arc<Event>> {
        let letters = self.dead_letters.iter().map(|(_, letter)| &letter.event);
        letters.chain(self.jobs.iter().map(|(_, spilled)| &spilled.event))
    }
}

/// The result of a commit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CommitResult {
    /// All of it is written.
    Committed,
    /// Nothing is written: other processes have claimed these shards since.
    Fenced(BTreeSet<u16>),
}

/// Writes all of a commit or nothing.
///
/// Fails with [`CheckpointError::ServerRestarted`] when `server_incarnation` is over, and with
/// [`CheckpointError::QueueSwitched`] when it has jobs for a backend of the queue that is no longer in
/// use. Writing the same commit again, after a response was lost, changes nothing.
pub async fn write_commit(
    pool: &PgPool,
    queue: &dyn JobQueue,
    listener: &str,
    server_incarnation: Uuid,
    commit: &CheckpointCommit,
) -> Result<CommitResult, CheckpointError> {
    let now = Instant::now();
    let mut tx = begin(pool).await?;
    failpoint!("save-begun");
    let fenced = lock_epochs(&mut tx, listener, server_incarnation, &commit.epochs).await?;
    if !fenced.is_empty() {
        return Ok(CommitResult::Fenced(fenced));
    }
    failpoint!("save-owned");
    if !commit.jobs.is_empty() && !record_commit_id(&mut tx, listener, commit).await? {
        // It was written before, and the response was lost.
        return Ok(CommitResult::Committed);
    }
    failpoint!("save-named");
    if !commit.positions.is_empty() {
        let held_back = update_positions(&mut tx, listener, commit).await?;
        if !held_back.is_empty() {
            // They were moved under the same epoch, as only a repeated commit does.
            return Ok(CommitResult::Fenced(held_back));
        }
    }
    failpoint!("save-moved");
    store::insert(
        &mut tx,
        listener,
        commit.dead_letters.iter().map(|(_, letter)| letter),
    )
    .await?;
    failpoint!("save-buried");
    store::finish_redrives(
        &mut tx,
        listener,
        commit.redrive_results.iter().map(|(_, verdict)| verdict),
    )
    .await?;
    failpoint!("save-settled");
    if !commit.jobs.is_empty() {
        if !backend::is_current(&mut tx, listener, queue.backend()).await? {
            return Err(CheckpointError::QueueSwitched);
        }
        for jobs in batches(&commit.jobs) {
            let jobs = jobs.iter().map(|(_, spilled)| spilled.job(now));
            let jobs = jobs.collect::<Result<Vec<_>, _>>()?;
            queue.enqueue(&mut tx, &jobs).await?;
        }
        failpoint!("save-jobs-added");
    }
    if !commit.released_shards.is_empty() {
        let released = commit.released_shards.iter().copied().map(smallint);
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
    Ok(CommitResult::Committed)
}

/// Splits jobs, in order, into batches of bounded size: encoding and sending a batch each take its
/// size in memory once more.
fn batches(mut jobs: &[(u16, PendingJob)]) -> impl Iterator<Item = &[(u16, PendingJob)]> {
    std::iter::from_fn(move || {
        let mut bytes = 0;
        let fits = |(_, one): &&(u16, PendingJob)| {
            let goes_on = bytes < BATCH_BYTES;
            bytes += one.event.bytes();
            goes_on
        };
        let (batch, left) = jobs.split_at(jobs.iter().take_while(fits).count());
        jobs = left;
        (!batch.is_empty()).then_some(batch)
    })
}

/// Records the id of a commit with the shards that it has jobs of. Returns whether it was not recorded
/// yet.
async fn record_commit_id(
    tx: &mut Transaction<'_, Postgres>,
    listener: &str,
    commit: &CheckpointCommit,
) -> Result<bool, CheckpointError> {
    let shards: BTreeSet<u16> = commit.jobs.iter().map(|(shard, _)| *shard).collect();
    let recorded = sqlx::query(
        "update observer.checkpoint set last_commit_id = $3
         where listener = $1 and shard = any($2) and last_commit_id is distinct from $3",
    )
    .bind(listener)
    .bind(shards.into_iter().map(smallint).collect::<Vec<_>>())
    .bind(commit.id)
    .execute(&mut **tx)
    .await?;
    Ok(recorded.rows_affected() > 0)
}

/// Locks the epochs of shards until the transaction ends. Returns the shards that have other epochs.
async fn lock_epochs(
    tx: &mut Transaction<'_, Postgres>,
    listener: &str,
    server_incarnation: Uuid,
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
    .bind(server_incarnation)
    .fetch_one(&mut **tx)
    .await?;
    if !row.try_get::<bool, _>(0)? {
        return Err(CheckpointError::ServerRestarted);
    }
    let fenced: Vec<i16> = row.try_get(1)?;
    Ok(fenced.into_iter().map(i16::unsigned_abs).collect())
}

/// Moves positions forward, and returns the shards whose positions must not move.
async fn update_positions(
    tx: &mut Transaction<'_, Postgres>,
    listener: &str,
    commit: &CheckpointCommit,
) -> Result<BTreeSet<u16>, CheckpointError> {
    let moved = &commit.positions;
    let shards: Vec<i16> = moved.iter().map(|(shard, _)| smallint(*shard)).collect();
    let texts = |of: &dyn Fn(&Progress) -> Result<String, serde_json::Error>| {
        let values = moved.iter().map(|(_, progress)| of(progress));
        values.collect::<Result<Vec<_>, _>>()
    };
    let epoch = |shard: &u16| commit.epochs.get(shard).copied().unwrap_or_default();
    let epochs: Vec<i64> = moved.iter().map(|(shard, _)| epoch(shard)).collect();
    let positions: Vec<&Position> = moved.iter().map(|(_, one)| &one.position).collect();
    let update = sqlx::query(UPDATE_POSITIONS_SQL)
        .bind(listener)
        .bind(&shards)
        .bind(epochs);
    let rows = stored_position::bind_all(update, &positions)
        .bind(texts(&|progress| {
            Ok(row::completed_ids(&progress.completed_ahead))
        })?)
        .bind(texts(&|progress| {
            row::partially_completed(&progress.completed_ahead)
        })?)
        // This only shrinks, and is soon empty.
        .bind(texts(&|progress| {
            row::pre_reshard_progress(&progress.pre_reshard)
        })?)
        .fetch_all(&mut **tx)
        .await?;
    let updated = rows.iter().map(|row| row.try_get(0));
    let updated = updated.collect::<Result<Vec<i16>, _>>()?;
    let held_back = shards.iter().filter(|shard| !updated.contains(shard));
    Ok(held_back.map(|shard| shard.unsigned_abs()).collect())
}

/// Forward only: a window never begins earlier, and within one the id never falls. Postgres
/// does not compare snapshots, but of two taken one after the other both ends only grow.
const UPDATE_POSITIONS_SQL: &str = "
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
    use super::*;
    use crate::delivery::ActionName;

    fn letter(id: i64) -> NewDeadLetter {
        NewDeadLetter {
            event: Arc::new(Event::fixture(id)),
            observer: "default/big".into(),
            action: "notify".into(),
            attempts: 1,
            history: Vec::new(),
        }
    }

    fn spilled(id: i64) -> PendingJob {
        let letter = letter(id);
        PendingJob {
            event: letter.event,
            name: ActionName::new(letter.observer, letter.action),
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
    fn dropped_shards_take_all_their_contents_along() {
        let mut commit = CheckpointCommit {
            epochs: BTreeMap::from([(1, 7), (2, 8)]),
            dead_letters: vec![(1, letter(1)), (2, letter(2)), (1, letter(3))],
            jobs: vec![(1, spilled(4)), (2, spilled(5))],
            redrive_results: vec![
                (1, RedriveResult::Settled(5)),
                (2, RedriveResult::Settled(6)),
            ],
            released_shards: BTreeSet::from([1]),
            ..CheckpointCommit::default()
        };
        let out = commit.drop_shards(&BTreeSet::from([1]));
        let ids: Vec<i64> = out.iter().map(|event| event.log_id).collect();
        assert_eq!(ids, [1, 3, 4]);
        assert_eq!(commit.epochs, BTreeMap::from([(2, 8)]));
        assert_eq!(
            (commit.dead_letters.len(), commit.redrive_results.len()),
            (1, 1)
        );
        assert!(commit.released_shards.is_empty() && !commit.is_empty());
        let out = commit.drop_shards(&BTreeSet::from([2]));
        assert_eq!((out.len(), commit.is_empty()), (2, true));
    }
}
