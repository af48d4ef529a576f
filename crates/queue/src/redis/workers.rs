//! Registration, heartbeats and release of workers.

use super::{RedisQueue, decode, scripts};
use crate::history::MAX_HISTORY;
use crate::{HeartbeatResponse, QueueError, WorkerId};

/// Error that the history records for an attempt whose worker's lease expired.
pub(super) const LEASE_EXPIRED: &str = "the worker was not heard of any more";

/// Most jobs that one script releases.
const RELEASE_BATCH: usize = 256;

/// Most scripts that release the jobs of one worker; the next call does the rest.
const MAX_RELEASE_BATCHES: usize = 1000;

impl RedisQueue {
    pub(super) async fn register_worker(
        &self,
        worker: WorkerId,
        name: &str,
    ) -> Result<(), QueueError> {
        // It does not know of any claims that it had before.
        self.release(worker, LEASE_EXPIRED, true).await?;
        self.release(worker, "", false).await?;
        self.write_heartbeat(worker, if name.is_empty() { "-" } else { name })
            .await?;
        Ok(())
    }

    pub(super) async fn renew_lease(
        &self,
        worker: WorkerId,
    ) -> Result<HeartbeatResponse, QueueError> {
        let reply = self.write_heartbeat(worker, "").await?;
        let Some((renewed, cancelled)) = reply.split_first() else {
            return Err(QueueError::Unreadable("a heartbeat".to_owned()));
        };
        if renewed == "1" {
            let cancelled = cancelled.iter().map(|claim| decode::token(claim));
            return Ok(HeartbeatResponse::Renewed {
                cancelled: cancelled.collect::<Result<_, _>>()?,
            });
        }
        self.release(worker, LEASE_EXPIRED, true).await?;
        Ok(HeartbeatResponse::Expired)
    }

    pub(super) async fn deregister_worker(&self, worker: WorkerId) -> Result<(), QueueError> {
        self.release(worker, "", false).await?;
        Ok(())
    }

    async fn write_heartbeat(
        &self,
        worker: WorkerId,
        name: &str,
    ) -> Result<Vec<String>, QueueError> {
        let mut call = self.server.script(&scripts::HEARTBEAT);
        call.arg(worker.0.to_string())
            .arg(decode::micros(self.config.lease))
            .arg(name);
        self.server.run(&call).await
    }

    /// Releases the claims of a worker, or of one whose lease expired only. Returns their number.
    pub(super) async fn release(
        &self,
        worker: WorkerId,
        error: &str,
        only_expired: bool,
    ) -> Result<u64, QueueError> {
        let mut released = 0;
        for _ in 0..MAX_RELEASE_BATCHES {
            let mut call = self.server.script(&scripts::RELEASE_WORKER);
            call.arg(worker.0.to_string())
                .arg(error)
                .arg(RELEASE_BATCH)
                .arg(MAX_HISTORY)
                .arg(u8::from(only_expired));
            let some: u64 = self.server.run(&call).await?;
            released += some;
            if some == 0 {
                break;
            }
        }
        Ok(released)
    }
}
