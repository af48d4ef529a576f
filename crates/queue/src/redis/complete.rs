//! Outcomes of claimed jobs.
//!
//! Dead letters are written to Postgres between two steps in Redis: the check which claims are valid,
//! and their end. A failure in between leaves the jobs claimed, and writing a dead letter is idempotent.

use super::{MAX_REMEMBERED_IDS, REMEMBER_IDS_FOR, RedisQueue, decode, scripts};
use crate::sql_transaction::begin;
use crate::{
    ClaimToken, DeadLetterSink, FinishedClaim, JobOutcome, QueueError, WorkerId, failpoint,
};

impl RedisQueue {
    pub(super) async fn complete(
        &self,
        worker: WorkerId,
        finished: &[FinishedClaim],
        sink: &dyn DeadLetterSink,
    ) -> Result<Vec<ClaimToken>, QueueError> {
        if finished.is_empty() {
            return Ok(Vec::new());
        }
        self.write_dead_letters(worker, finished, sink).await?;
        let mut call = self.server.script(&scripts::COMPLETE);
        call.arg(worker.0.to_string())
            .arg(u8::from(!self.config.retention.is_zero()))
            .arg(decode::micros(REMEMBER_IDS_FOR))
            .arg(MAX_REMEMBERED_IDS);
        for one in finished {
            call.arg(&one.claim.job_ref).arg(one.claim.generation);
            match &one.outcome {
                JobOutcome::Completed => call.arg("completed").arg(0).arg("").arg(""),
                JobOutcome::Retry {
                    delay,
                    attempts,
                    history,
                } => call
                    .arg("retry")
                    .arg(decode::micros(*delay))
                    .arg(*attempts)
                    .arg(history.get()),
                JobOutcome::Discarded { attempts, history } => call
                    .arg("discarded")
                    .arg(0)
                    .arg(*attempts)
                    .arg(history.get()),
                JobOutcome::Released => call.arg("released").arg(0).arg("").arg(""),
            };
        }
        let stale: Vec<usize> = self.server.run(&call).await?;
        failpoint!("redis-finished");
        Ok(stale
            .into_iter()
            .filter_map(|n| finished.get(n))
            .map(|one| one.claim.clone())
            .collect())
    }

    /// Writes the dead letters of discarded jobs whose claims are valid.
    async fn write_dead_letters(
        &self,
        worker: WorkerId,
        finished: &[FinishedClaim],
        sink: &dyn DeadLetterSink,
    ) -> Result<(), QueueError> {
        let discarded: Vec<&FinishedClaim> = finished
            .iter()
            .filter(|one| matches!(one.outcome, JobOutcome::Discarded { .. }))
            .collect();
        if discarded.is_empty() {
            return Ok(());
        }
        let mut call = self.server.script(&scripts::VERIFY_CLAIMS);
        call.arg(worker.0.to_string());
        for one in &discarded {
            call.arg(&one.claim.job_ref).arg(one.claim.generation);
        }
        let valid: Vec<usize> = self.server.run(&call).await?;
        failpoint!("redis-discard-verified");
        let discarded: Vec<&FinishedClaim> = valid
            .into_iter()
            .filter_map(|n| discarded.get(n).copied())
            .collect();
        if discarded.is_empty() {
            return Ok(());
        }
        let mut tx = begin(&self.pool).await?;
        sink.write(&mut tx, &discarded).await?;
        failpoint!("redis-dead-letters-written");
        tx.commit().await?;
        failpoint!("redis-dead-letters-committed");
        Ok(())
    }
}
