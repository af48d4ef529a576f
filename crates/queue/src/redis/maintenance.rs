//! Periodic maintenance: the reaper of expired workers, retention, and the repair of lost indexes.

use super::workers::LEASE_EXPIRED;
use super::{
    MAX_COMPLETED_JOBS, MAX_REMEMBERED_IDS, REMEMBER_IDS_FOR, RedisQueue, decode, scripts,
};
use crate::{MaintenanceReport, QueueError, WorkerId};

/// Most items of each kind that one call processes.
const BATCH_SIZE: usize = 1000;

/// Jobs that one call checks for being in their indexes.
const CHECK_BATCH: usize = 50;

/// The same, and the most such steps of one call, once a stream or its group is known to be lost.
const REPAIR_BATCH: usize = 1000;
const MAX_REPAIR_BATCHES: usize = 200;

impl RedisQueue {
    pub(super) async fn maintain(&self) -> Result<MaintenanceReport, QueueError> {
        let mut call = self.server.script(&scripts::MAINTENANCE);
        call.arg(decode::micros(REMEMBER_IDS_FOR))
            .arg(MAX_REMEMBERED_IDS)
            .arg(decode::micros(self.config.retention))
            .arg(MAX_COMPLETED_JOBS)
            .arg(BATCH_SIZE);
        let reply: Vec<String> = self.server.run(&call).await?;
        let Some((damaged, workers)) = reply.split_first() else {
            return Err(QueueError::Unreadable("a maintenance reply".to_owned()));
        };
        let mut report = MaintenanceReport::default();
        for worker in workers {
            let worker = worker
                .parse()
                .map_err(|_| QueueError::Unreadable("a worker's id".to_owned()))?;
            report.expired_claims += self.release(WorkerId(worker), LEASE_EXPIRED, true).await?;
        }
        self.repair(damaged == "1").await?;
        Ok(report)
    }

    /// Puts jobs back into the indexes that their hashes name: a few, or all if indexes are damaged.
    async fn repair(&self, damaged: bool) -> Result<(), QueueError> {
        let (batch, max_batches) = if damaged {
            (REPAIR_BATCH, MAX_REPAIR_BATCHES)
        } else {
            (CHECK_BATCH, 1)
        };
        let mut jobs = 0;
        for _ in 0..max_batches {
            let mut call = self.server.script(&scripts::REPAIR);
            call.arg(batch);
            let (still_damaged, repaired): (u8, u64) = self.server.run(&call).await?;
            jobs += repaired;
            if still_damaged == 0 {
                break;
            }
        }
        if jobs > 0 {
            tracing::warn!(jobs, "repaired the indexes of jobs in Redis");
        }
        Ok(())
    }
}
