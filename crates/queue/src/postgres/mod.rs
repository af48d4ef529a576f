//! Jobs in Postgres: rows of `observer.job`, and functions beside them (see the migration) that
//! each do one step in one statement. What they promise rests on two rules: whoever adds to a lane
//! holds its first job, and whoever takes the first away makes the next one ready.
//!
//! Time is the server's alone.

mod claim;
mod finish;
mod keys;
mod select;
mod show;

use std::sync::{Mutex, PoisonError};

use async_trait::async_trait;
use sqlx::{PgConnection, PgPool};

use crate::{
    ActionLanes, Alive, BackendKind, Burial, Claim, Ended, Figures, First, JobQueue, Keeping, Kept,
    Lane, NewJob, QueueError, Run, Selection, Shown, Want, WorkerId,
};
use keys::Turn;

/// Most attempts that a job's history tells of.
pub const MAX_HISTORY: usize = 20;

/// Bytes in a slot of the ring from which on new jobs go to the next one. While an old snapshot is
/// open a claim passes by what is dead in the slot: a few milliseconds for as much as this.
const SLOT_BYTES: i64 = 8 * 1024 * 1024;

/// Most finished jobs that one call of `keep` removes.
const MOST_REMOVED: i64 = 10_000;

/// The jobs of one listener in Postgres.
#[derive(Debug)]
pub struct PostgresQueue {
    pool: PgPool,
    listener: String,
    keeping: Keeping,
    slot_bytes: i64,
    /// Where the last claim ended in the rotation over actions and tenants.
    after: Mutex<Turn>,
}

impl PostgresQueue {
    /// The queue of a listener. Connections are taken from the pool for one statement or one short
    /// transaction at a time.
    #[must_use]
    pub fn new(pool: PgPool, listener: &str, keeping: Keeping) -> Self {
        Self {
            pool,
            listener: listener.to_owned(),
            keeping,
            slot_bytes: SLOT_BYTES,
            after: Mutex::new(Turn::default()),
        }
    }

    /// The same with slots of another size, so that a test sees many of them.
    #[must_use]
    pub fn with_slot_bytes(mut self, bytes: i64) -> Self {
        self.slot_bytes = bytes;
        self
    }

    fn after(&self) -> Turn {
        *self.after.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set_after(&self, turn: Turn) {
        *self.after.lock().unwrap_or_else(PoisonError::into_inner) = turn;
    }
}

#[async_trait]
impl JobQueue for PostgresQueue {
    fn backend(&self) -> BackendKind {
        BackendKind::Postgres
    }

    async fn enqueue(&self, tx: &mut PgConnection, jobs: &[NewJob]) -> Result<(), QueueError> {
        self.add(tx, jobs).await
    }

    async fn claim(&self, worker: WorkerId, want: &Want) -> Result<Vec<Run>, QueueError> {
        self.take(worker, want).await
    }

    async fn finish(
        &self,
        worker: WorkerId,
        ended: &[Ended],
        burial: &dyn Burial,
    ) -> Result<Vec<Claim>, QueueError> {
        self.end(worker, ended, burial).await
    }

    async fn register(&self, worker: WorkerId, name: &str) -> Result<(), QueueError> {
        sqlx::query("select observer.job_register($1, $2, $3, $4)")
            .bind(&self.listener)
            .bind(worker.0)
            .bind(name.replace('\0', ""))
            .bind(self.keeping.lease.as_secs_f64())
            .execute(&self.pool)
            .await?;
        Ok(())
    }

    async fn alive(&self, worker: WorkerId) -> Result<Alive, QueueError> {
        self.renew(worker).await
    }

    async fn leave(&self, worker: WorkerId) -> Result<(), QueueError> {
        sqlx::query("select observer.job_leave($1, $2)")
            .bind(&self.listener)
            .bind(worker.0)
            .execute(&self.pool)
            .await?;
        Ok(())
    }

    async fn keep(&self) -> Result<Kept, QueueError> {
        let expired: i64 = sqlx::query_scalar("select observer.job_expire($1, $2)")
            .bind(&self.listener)
            .bind(i32::try_from(MAX_HISTORY).unwrap_or(i32::MAX))
            .fetch_one(&self.pool)
            .await?;
        sqlx::query("select observer.job_rotate($1)")
            .bind(self.slot_bytes)
            .execute(&self.pool)
            .await?;
        if !self.keeping.retention.is_zero() {
            sqlx::query("select observer.job_forget_done($1, $2, $3)")
                .bind(&self.listener)
                .bind(self.keeping.retention.as_secs_f64())
                .bind(MOST_REMOVED)
                .execute(&self.pool)
                .await?;
        }
        Ok(Kept {
            expired: expired.unsigned_abs(),
        })
    }

    async fn firsts(&self, lanes: &[Lane]) -> Result<Vec<Option<First>>, QueueError> {
        self.first_of(lanes).await
    }

    async fn lanes(
        &self,
        shards: &[u16],
        of: u16,
        most: usize,
    ) -> Result<Vec<ActionLanes>, QueueError> {
        self.lanes_of(shards, of, most).await
    }

    async fn figures(&self) -> Result<Vec<(String, Figures)>, QueueError> {
        self.count().await
    }

    async fn list(&self, what: &Selection, most: usize) -> Result<(Vec<Shown>, u64), QueueError> {
        self.selected(what, most).await
    }

    async fn show(&self, id: &str) -> Result<Option<Shown>, QueueError> {
        self.one(id).await
    }

    async fn retry(&self, what: &Selection) -> Result<u64, QueueError> {
        self.hurry(what).await
    }

    async fn cancel(&self, what: &Selection) -> Result<u64, QueueError> {
        self.call_off(what).await
    }

    async fn is_empty(&self) -> Result<bool, QueueError> {
        // Where a lane holds jobs, one of them is not behind.
        let empty = sqlx::query_scalar(
            "select not exists (select from observer.job j where j.queue = q.id and j.state = 'r')
                and not exists (select from observer.job j where j.queue = q.id and j.state = 'd')
                and not exists (select from observer.job j where j.queue = q.id and j.state = 'c')
             from (select observer.job_queue_of($1) as id) q",
        )
        .bind(&self.listener)
        .fetch_one(&self.pool)
        .await?;
        Ok(empty)
    }
}
