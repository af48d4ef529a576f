//! Ending claims.
//!
//! Dead letters are written between two steps in Redis: which claims are held, and their end. What
//! fails in between leaves the jobs held, and writing a dead letter again changes nothing.

use super::{MOST_REMEMBERED, REMEMBERED, RedisQueue, read, scripts};
use crate::transaction::begin;
use crate::{Burial, Claim, Ended, Ending, QueueError, WorkerId, failpoint};

impl RedisQueue {
    pub(super) async fn end(
        &self,
        worker: WorkerId,
        ended: &[Ended],
        burial: &dyn Burial,
    ) -> Result<Vec<Claim>, QueueError> {
        if ended.is_empty() {
            return Ok(Vec::new());
        }
        self.bury(worker, ended, burial).await?;
        let mut call = self.server.script(&scripts::FINISH);
        call.arg(worker.0.to_string())
            .arg(u8::from(!self.keeping.retention.is_zero()))
            .arg(read::micros(REMEMBERED))
            .arg(MOST_REMEMBERED);
        for end in ended {
            call.arg(&end.claim.place).arg(end.claim.number);
            match &end.ending {
                Ending::Done => call.arg("done").arg(0).arg("").arg(""),
                Ending::Again {
                    wait,
                    attempts,
                    history,
                } => call
                    .arg("again")
                    .arg(read::micros(*wait))
                    .arg(*attempts)
                    .arg(history.get()),
                Ending::Dead { attempts, history } => {
                    call.arg("dead").arg(0).arg(*attempts).arg(history.get())
                }
                Ending::Untouched => call.arg("untouched").arg(0).arg("").arg(""),
            };
        }
        let refused: Vec<usize> = self.server.run(&call).await?;
        failpoint!("redis-finished");
        Ok(refused
            .into_iter()
            .filter_map(|n| ended.get(n))
            .map(|end| end.claim.clone())
            .collect())
    }

    /// Writes the dead letters of claims that are held.
    async fn bury(
        &self,
        worker: WorkerId,
        ended: &[Ended],
        burial: &dyn Burial,
    ) -> Result<(), QueueError> {
        let dead: Vec<&Ended> = ended
            .iter()
            .filter(|end| matches!(end.ending, Ending::Dead { .. }))
            .collect();
        if dead.is_empty() {
            return Ok(());
        }
        let mut call = self.server.script(&scripts::HELD);
        call.arg(worker.0.to_string());
        for end in &dead {
            call.arg(&end.claim.place).arg(end.claim.number);
        }
        let held: Vec<usize> = self.server.run(&call).await?;
        failpoint!("redis-dead-held");
        let dead: Vec<&Ended> = held
            .into_iter()
            .filter_map(|n| dead.get(n).copied())
            .collect();
        if dead.is_empty() {
            return Ok(());
        }
        let mut tx = begin(&self.pool).await?;
        burial.bury(&mut tx, &dead).await?;
        failpoint!("redis-dead-buried");
        tx.commit().await?;
        failpoint!("redis-dead-committed");
        Ok(())
    }
}
