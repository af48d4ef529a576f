//! What comes of claimed jobs.

use sqlx::{PgConnection, PgExecutor};

use super::PostgresQueue;
use super::claim::{integer, lane_number};
use crate::transaction::begin;
use crate::{Burial, Claim, Ended, Ending, QueueError, WorkerId, failpoint};

/// Ended claims as arrays, each in its place in all of them, in the order in which everybody waits
/// for rows.
#[derive(Default)]
struct Columns<'a> {
    /// Which of those given each is.
    which: Vec<usize>,
    slots: Vec<i16>,
    ats: Vec<&'a str>,
    lanes: Vec<i64>,
    ids: Vec<i64>,
    claims: Vec<i64>,
    endings: Vec<&'static str>,
    waits: Vec<f64>,
    attempts: Vec<Option<i32>>,
    histories: Vec<Option<&'a str>>,
}

impl PostgresQueue {
    pub(super) async fn end(
        &self,
        worker: WorkerId,
        ended: &[Ended],
        burial: &dyn Burial,
    ) -> Result<Vec<Claim>, QueueError> {
        if ended.is_empty() {
            return Ok(Vec::new());
        }
        let all: Vec<usize> = (0..ended.len()).collect();
        let columns = Columns::of(&self.listener, ended, &all)?;
        let mut held = vec![false; ended.len()];
        let all_done = ended.iter().all(is_done);
        if all_done && self.all_done(&self.pool, worker, &columns).await? {
            held.fill(true);
        } else if all_done || !ended.iter().any(|one| is_done(one) || is_dead(one)) {
            columns.note(&self.write(&self.pool, worker, &columns).await?, &mut held);
        } else {
            held = self.end_apart(worker, ended, &columns, burial).await?;
        }
        failpoint!("postgres-finished");
        let refused = ended.iter().zip(&held).filter(|(_, held)| !**held);
        Ok(refused.map(|(one, _)| one.claim.clone()).collect())
    }

    /// Ends those that are done in one step, since that is cheaper and they are many, and then the
    /// others.
    async fn end_apart(
        &self,
        worker: WorkerId,
        ended: &[Ended],
        columns: &Columns<'_>,
        burial: &dyn Burial,
    ) -> Result<Vec<bool>, QueueError> {
        let any_dead = ended.iter().any(is_dead);
        let mut held = vec![false; ended.len()];
        let mut tx = begin(&self.pool).await?;
        columns.note(&self.held(&mut tx, worker, columns).await?, &mut held);
        if any_dead {
            failpoint!("postgres-dead-held");
        }
        let still = ended.iter().zip(&held).filter(|(_, held)| **held);
        let dead: Vec<&Ended> = still
            .map(|(one, _)| one)
            .filter(|one| is_dead(one))
            .collect();
        if !dead.is_empty() {
            burial.bury(&mut tx, &dead).await?;
            failpoint!("postgres-dead-buried");
        }
        let held_and = |done: bool| -> Vec<usize> {
            let of = |n: &usize| held[*n] && is_done(&ended[*n]) == done;
            (0..ended.len()).filter(of).collect()
        };
        for which in [held_and(true), held_and(false)] {
            if which.is_empty() {
                continue;
            }
            let some = Columns::of(&self.listener, ended, &which)?;
            let done = which.iter().all(|n| is_done(&ended[*n]));
            if !(done && self.all_done(&mut *tx, worker, &some).await?) {
                some.note(&self.write(&mut *tx, worker, &some).await?, &mut held);
            }
        }
        if any_dead {
            failpoint!("postgres-dead-finished");
        }
        tx.commit().await?;
        Ok(held)
    }

    async fn held(
        &self,
        tx: &mut PgConnection,
        worker: WorkerId,
        columns: &Columns<'_>,
    ) -> Result<Vec<bool>, QueueError> {
        let held =
            sqlx::query_scalar("select observer.job_held($1, $2, $3::text[]::tid[], $4, $5, $6)")
                .bind(worker.0)
                .bind(&columns.slots)
                .bind(&columns.ats)
                .bind(&columns.lanes)
                .bind(&columns.ids)
                .bind(&columns.claims)
                .fetch_one(tx)
                .await?;
        Ok(held)
    }

    /// Whether the worker held all of these, which are done, and all have ended; otherwise none has.
    async fn all_done(
        &self,
        executor: impl PgExecutor<'_>,
        worker: WorkerId,
        columns: &Columns<'_>,
    ) -> Result<bool, QueueError> {
        let ended = sqlx::query_scalar(
            "select observer.job_finish_done($1, $2, $3, $4::text[]::tid[], $5, $6, $7, $8)",
        )
        .bind(&self.listener)
        .bind(worker.0)
        .bind(&columns.slots)
        .bind(&columns.ats)
        .bind(&columns.lanes)
        .bind(&columns.ids)
        .bind(&columns.claims)
        .bind(!self.keeping.retention.is_zero())
        .fetch_one(executor)
        .await?;
        Ok(ended)
    }

    async fn write(
        &self,
        executor: impl PgExecutor<'_>,
        worker: WorkerId,
        columns: &Columns<'_>,
    ) -> Result<Vec<bool>, QueueError> {
        let held = sqlx::query_scalar(
            "select observer.job_finish($1, $2, $3, $4::text[]::tid[], $5, $6, $7, $8, $9, $10, $11, $12)",
        )
        .bind(&self.listener)
        .bind(worker.0)
        .bind(&columns.slots)
        .bind(&columns.ats)
        .bind(&columns.lanes)
        .bind(&columns.ids)
        .bind(&columns.claims)
        .bind(&columns.endings)
        .bind(&columns.waits)
        .bind(&columns.attempts)
        .bind(&columns.histories)
        .bind(!self.keeping.retention.is_zero())
        .fetch_one(executor)
        .await?;
        Ok(held)
    }
}

impl<'a> Columns<'a> {
    /// Of those `which` of the ended.
    fn of(listener: &str, ended: &'a [Ended], which: &[usize]) -> Result<Self, QueueError> {
        let mut places = Vec::with_capacity(which.len());
        for n in which {
            places.push((place(&ended[*n].claim)?, *n));
        }
        places.sort_unstable();
        let mut columns = Self::default();
        for ((slot, id, at), n) in places {
            let one = &ended[n];
            columns.which.push(n);
            columns.slots.push(slot);
            columns.ats.push(at);
            columns.ids.push(id);
            columns.lanes.push(lane_number(listener, &one.job.lane));
            columns.claims.push(one.claim.number);
            let (ending, wait, attempts, history) = match &one.ending {
                Ending::Done => ("done", 0.0, None, None),
                Ending::Untouched => ("untouched", 0.0, None, None),
                Ending::Again {
                    wait,
                    attempts,
                    history,
                } => (
                    "again",
                    wait.as_secs_f64(),
                    Some(*attempts),
                    Some(history.get()),
                ),
                Ending::Dead { attempts, history } => {
                    ("dead", 0.0, Some(*attempts), Some(history.get()))
                }
            };
            columns.endings.push(ending);
            columns.waits.push(wait);
            columns.attempts.push(attempts.map(integer));
            columns.histories.push(history);
        }
        Ok(columns)
    }

    /// Notes which of them are held, in the order in which the ended were given.
    fn note(&self, held: &[bool], all: &mut [bool]) {
        for (n, held) in self.which.iter().zip(held) {
            all[*n] = *held;
        }
    }
}

fn is_done(ended: &Ended) -> bool {
    matches!(ended.ending, Ending::Done)
}

fn is_dead(ended: &Ended) -> bool {
    matches!(ended.ending, Ending::Dead { .. })
}

/// The slot, the id, and where the row was, in a claim's place.
fn place(claim: &Claim) -> Result<(i16, i64, &str), QueueError> {
    let mut parts = claim.place.splitn(3, '.');
    let mut read = || {
        Some((
            parts.next()?.parse().ok()?,
            parts.next()?.parse().ok()?,
            parts.next()?,
        ))
    };
    read().ok_or_else(|| QueueError::Unreadable(format!("no claim is at `{}`", claim.place)))
}
