//! Outcomes of claimed jobs.

use sqlx::{PgConnection, PgExecutor};

use super::PostgresQueue;
use super::columns::integer;
use super::hash::lane_id;
use crate::sql_transaction::begin;
use crate::{
    ClaimToken, DeadLetterSink, FinishedClaim, JobOutcome, QueueError, WorkerId, failpoint,
};

/// Finished claims as arrays, in the order in which every transaction locks their rows.
#[derive(Default)]
struct FinishedColumns<'a> {
    /// Index of each among the finished claims.
    indexes: Vec<usize>,
    partitions: Vec<i16>,
    ctids: Vec<&'a str>,
    lanes: Vec<i64>,
    ids: Vec<i64>,
    generations: Vec<i64>,
    outcomes: Vec<&'static str>,
    delays: Vec<f64>,
    attempts: Vec<Option<i32>>,
    histories: Vec<Option<&'a str>>,
}

impl PostgresQueue {
    pub(super) async fn complete(
        &self,
        worker: WorkerId,
        finished: &[FinishedClaim],
        sink: &dyn DeadLetterSink,
    ) -> Result<Vec<ClaimToken>, QueueError> {
        if finished.is_empty() {
            return Ok(Vec::new());
        }
        let all: Vec<usize> = (0..finished.len()).collect();
        let columns = FinishedColumns::of(&self.listener, finished, &all)?;
        let mut valid = vec![false; finished.len()];
        let all_completed = finished.iter().all(is_completed);
        let any_apart = finished
            .iter()
            .any(|one| is_completed(one) || is_discarded(one));
        if all_completed && self.complete_all(&self.pool, worker, &columns).await? {
            valid.fill(true);
        } else if all_completed || !any_apart {
            let written = self.write_outcomes(&self.pool, worker, &columns).await?;
            columns.mark(&written, &mut valid);
        } else {
            valid = self
                .complete_apart(worker, finished, &columns, sink)
                .await?;
        }
        failpoint!("postgres-finished");
        let stale = finished.iter().zip(&valid).filter(|(_, valid)| !**valid);
        Ok(stale.map(|(one, _)| one.claim.clone()).collect())
    }

    /// Writes completed jobs in one step, since that is cheaper and they are many, and then the others.
    async fn complete_apart(
        &self,
        worker: WorkerId,
        finished: &[FinishedClaim],
        columns: &FinishedColumns<'_>,
        sink: &dyn DeadLetterSink,
    ) -> Result<Vec<bool>, QueueError> {
        let any_discarded = finished.iter().any(is_discarded);
        let mut valid = vec![false; finished.len()];
        let mut tx = begin(&self.pool).await?;
        columns.mark(&self.verify(&mut tx, worker, columns).await?, &mut valid);
        if any_discarded {
            failpoint!("postgres-discard-verified");
        }
        let discarded: Vec<&FinishedClaim> = finished
            .iter()
            .zip(&valid)
            .filter(|(one, valid)| **valid && is_discarded(one))
            .map(|(one, _)| one)
            .collect();
        if !discarded.is_empty() {
            sink.write(&mut tx, &discarded).await?;
            failpoint!("postgres-dead-letters-written");
        }
        let valid_and = |completed: bool| -> Vec<usize> {
            let of = |n: &usize| valid[*n] && is_completed(&finished[*n]) == completed;
            (0..finished.len()).filter(of).collect()
        };
        for indexes in [valid_and(true), valid_and(false)] {
            if indexes.is_empty() {
                continue;
            }
            let some = FinishedColumns::of(&self.listener, finished, &indexes)?;
            let completed = indexes.iter().all(|n| is_completed(&finished[*n]));
            if !(completed && self.complete_all(&mut *tx, worker, &some).await?) {
                let written = self.write_outcomes(&mut *tx, worker, &some).await?;
                some.mark(&written, &mut valid);
            }
        }
        if any_discarded {
            failpoint!("postgres-discard-finished");
        }
        tx.commit().await?;
        Ok(valid)
    }

    /// Returns which of the claims are valid.
    async fn verify(
        &self,
        tx: &mut PgConnection,
        worker: WorkerId,
        columns: &FinishedColumns<'_>,
    ) -> Result<Vec<bool>, QueueError> {
        let valid = sqlx::query_scalar(
            "select observer.verify_claims($1, $2, $3::text[]::tid[], $4, $5, $6)",
        )
        .bind(worker.0)
        .bind(&columns.partitions)
        .bind(&columns.ctids)
        .bind(&columns.lanes)
        .bind(&columns.ids)
        .bind(&columns.generations)
        .fetch_one(tx)
        .await?;
        Ok(valid)
    }

    /// Removes completed jobs if all of their claims are valid, and none otherwise. Whether it did.
    async fn complete_all(
        &self,
        executor: impl PgExecutor<'_>,
        worker: WorkerId,
        columns: &FinishedColumns<'_>,
    ) -> Result<bool, QueueError> {
        let completed = sqlx::query_scalar(
            "select observer.job_finish_completed($1, $2, $3, $4::text[]::tid[], $5, $6, $7, $8)",
        )
        .bind(&self.listener)
        .bind(worker.0)
        .bind(&columns.partitions)
        .bind(&columns.ctids)
        .bind(&columns.lanes)
        .bind(&columns.ids)
        .bind(&columns.generations)
        .bind(!self.config.retention.is_zero())
        .fetch_one(executor)
        .await?;
        Ok(completed)
    }

    /// Writes the outcomes of claims and returns which of them were valid.
    async fn write_outcomes(
        &self,
        executor: impl PgExecutor<'_>,
        worker: WorkerId,
        columns: &FinishedColumns<'_>,
    ) -> Result<Vec<bool>, QueueError> {
        let valid = sqlx::query_scalar(
            "select observer.job_finish($1, $2, $3, $4::text[]::tid[], $5, $6, $7, $8, $9, $10, $11, $12)",
        )
        .bind(&self.listener)
        .bind(worker.0)
        .bind(&columns.partitions)
        .bind(&columns.ctids)
        .bind(&columns.lanes)
        .bind(&columns.ids)
        .bind(&columns.generations)
        .bind(&columns.outcomes)
        .bind(&columns.delays)
        .bind(&columns.attempts)
        .bind(&columns.histories)
        .bind(!self.config.retention.is_zero())
        .fetch_one(executor)
        .await?;
        Ok(valid)
    }
}

impl<'a> FinishedColumns<'a> {
    /// Columns of the finished claims at these indexes.
    fn of(
        listener: &str,
        finished: &'a [FinishedClaim],
        indexes: &[usize],
    ) -> Result<Self, QueueError> {
        let mut rows = Vec::with_capacity(indexes.len());
        for n in indexes {
            rows.push((row_address(&finished[*n].claim)?, *n));
        }
        rows.sort_unstable();
        let mut columns = Self::default();
        for ((partition, id, ctid), n) in rows {
            let one = &finished[n];
            columns.indexes.push(n);
            columns.partitions.push(partition);
            columns.ctids.push(ctid);
            columns.ids.push(id);
            columns.lanes.push(lane_id(listener, &one.job.lane));
            columns.generations.push(one.claim.generation);
            let (outcome, delay, attempts, history) = match &one.outcome {
                JobOutcome::Completed => ("completed", 0.0, None, None),
                JobOutcome::Released => ("released", 0.0, None, None),
                JobOutcome::Retry {
                    delay,
                    attempts,
                    history,
                } => (
                    "retry",
                    delay.as_secs_f64(),
                    Some(*attempts),
                    Some(history.get()),
                ),
                JobOutcome::Discarded { attempts, history } => {
                    ("discarded", 0.0, Some(*attempts), Some(history.get()))
                }
            };
            columns.outcomes.push(outcome);
            columns.delays.push(delay);
            columns.attempts.push(attempts.map(integer));
            columns.histories.push(history);
        }
        Ok(columns)
    }

    /// Marks which are valid, by their indexes among all finished claims.
    fn mark(&self, valid: &[bool], all: &mut [bool]) {
        for (n, valid) in self.indexes.iter().zip(valid) {
            all[*n] = *valid;
        }
    }
}

fn is_completed(finished: &FinishedClaim) -> bool {
    matches!(finished.outcome, JobOutcome::Completed)
}

fn is_discarded(finished: &FinishedClaim) -> bool {
    matches!(finished.outcome, JobOutcome::Discarded { .. })
}

/// Parses partition, id and `ctid` of a claimed row.
fn row_address(claim: &ClaimToken) -> Result<(i16, i64, &str), QueueError> {
    let mut parts = claim.job_ref.splitn(3, '.');
    let mut parse = || {
        Some((
            parts.next()?.parse().ok()?,
            parts.next()?.parse().ok()?,
            parts.next()?,
        ))
    };
    parse().ok_or_else(|| QueueError::Unreadable(format!("no claim is at `{}`", claim.job_ref)))
}
