//! Claiming jobs.

use uuid::Uuid;

use super::{RedisQueue, decode, scripts};
use crate::{ClaimRequest, LaneBatch, MAX_JOBS_PER_LANE, QueueError, WorkerId};

/// Maximum number of lanes of one claim; a request for more gets this many.
const MAX_LANES_PER_CLAIM: usize = 512;

/// Lifetime in seconds of the token of a claim without a reply: far longer than any command is in
/// flight.
const TOKEN_SECONDS: u64 = 3600;

impl RedisQueue {
    pub(super) async fn claim_batches(
        &self,
        worker: WorkerId,
        request: &ClaimRequest,
    ) -> Result<Vec<LaneBatch>, QueueError> {
        self.return_unconfirmed().await?;
        if request.max_lanes == 0 || request.max_bytes == 0 {
            return Ok(Vec::new());
        }
        let token = Uuid::new_v4();
        let mut call = self.server.script(&scripts::CLAIM);
        call.arg(worker.0.to_string())
            .arg(token.to_string())
            .arg(request.max_lanes.min(MAX_LANES_PER_CLAIM))
            .arg(MAX_JOBS_PER_LANE)
            .arg(limit(request.max_running_total))
            .arg(request.max_bytes);
        for (observer, action, max_running) in &request.actions {
            call.arg(&**observer)
                .arg(&**action)
                .arg(limit(*max_running));
        }
        let pending = self.unconfirmed.begin(worker, token);
        let rows: Vec<decode::Row> = self.server.run(&call).await?;
        let batches = decode::batches(&rows)?;
        pending.confirm();
        Ok(batches)
    }

    /// Returns the jobs of claims whose replies were lost.
    pub(super) async fn return_unconfirmed(&self) -> Result<(), QueueError> {
        while let Some(claim) = self.unconfirmed.next() {
            let mut call = self.server.script(&scripts::RETURN_UNCONFIRMED);
            call.arg(claim.worker().0.to_string())
                .arg(claim.token().to_string())
                .arg(TOKEN_SECONDS);
            let jobs: u64 = self.server.run(&call).await?;
            if jobs > 0 {
                tracing::info!(jobs, "returned the jobs of a claim whose reply was lost");
            }
            claim.confirm();
        }
        Ok(())
    }
}

fn limit(limit: Option<u32>) -> String {
    limit.map(|limit| limit.to_string()).unwrap_or_default()
}
