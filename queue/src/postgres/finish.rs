//! What comes of claimed jobs.

use sqlx::{PgConnection, PgExecutor};

use super::PostgresQueue;
use super::claim::{integer, lane_number};
use crate::{Burial, Claim, Ended, Ending, QueueError, WorkerId, failpoint};

/// Ended claims as arrays, each in its place in all of them.
#[derive(Default)]
struct Columns<'a> {
    slots: Vec<i16>,
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
        let columns = Columns::of(&self.listener, ended)?;
        let any_dead = ended.iter().any(is_dead);
        let held = if any_dead {
            let mut tx = self.pool.begin().await?;
            let held = self.held(&mut tx, worker, &columns).await?;
            failpoint!("postgres-dead-held");
            let dead = ended.iter().zip(&held).filter(|(_, held)| **held);
            let dead: Vec<&Ended> = dead
                .map(|(one, _)| one)
                .filter(|one| is_dead(one))
                .collect();
            if !dead.is_empty() {
                burial.bury(&mut tx, &dead).await?;
                failpoint!("postgres-dead-buried");
            }
            let held = self.write(&mut *tx, worker, &columns).await?;
            failpoint!("postgres-dead-finished");
            tx.commit().await?;
            held
        } else {
            self.write(&self.pool, worker, &columns).await?
        };
        failpoint!("postgres-finished");
        let refused = ended.iter().zip(&held).filter(|(_, held)| !**held);
        Ok(refused.map(|(one, _)| one.claim.clone()).collect())
    }

    async fn held(
        &self,
        tx: &mut PgConnection,
        worker: WorkerId,
        columns: &Columns<'_>,
    ) -> Result<Vec<bool>, QueueError> {
        let held = sqlx::query_scalar("select observer.job_held($1, $2, $3, $4, $5, $6)")
            .bind(&self.listener)
            .bind(worker.0)
            .bind(&columns.slots)
            .bind(&columns.lanes)
            .bind(&columns.ids)
            .bind(&columns.claims)
            .fetch_one(tx)
            .await?;
        Ok(held)
    }

    async fn write(
        &self,
        executor: impl PgExecutor<'_>,
        worker: WorkerId,
        columns: &Columns<'_>,
    ) -> Result<Vec<bool>, QueueError> {
        let held = sqlx::query_scalar(
            "select observer.job_finish($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)",
        )
        .bind(&self.listener)
        .bind(worker.0)
        .bind(&columns.slots)
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
    fn of(listener: &str, ended: &'a [Ended]) -> Result<Self, QueueError> {
        let mut columns = Self::default();
        for one in ended {
            let (slot, id) = place(&one.claim)?;
            columns.slots.push(slot);
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
}

fn is_dead(ended: &Ended) -> bool {
    matches!(ended.ending, Ending::Dead { .. })
}

/// The slot and the id in a claim's place.
fn place(claim: &Claim) -> Result<(i16, i64), QueueError> {
    let parts = claim.place.split_once('.');
    let read = parts.and_then(|(slot, id)| Some((slot.parse().ok()?, id.parse().ok()?)));
    read.ok_or_else(|| QueueError::Unreadable(format!("no claim is at `{}`", claim.place)))
}
