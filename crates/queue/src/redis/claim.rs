//! Taking jobs.

use uuid::Uuid;

use super::{RedisQueue, read, scripts};
use crate::{MAX_RUN, QueueError, Run, Want, WorkerId};

/// Most runs that one call takes, whatever it asks for.
const MOST_RUNS: usize = 512;

/// For how long the token of a claim without an answer is known, in seconds: far longer than any
/// command is under way.
const TOKEN_SECONDS: u64 = 3600;

impl RedisQueue {
    pub(super) async fn take(&self, worker: WorkerId, want: &Want) -> Result<Vec<Run>, QueueError> {
        self.give_back_doubtful().await?;
        if want.runs == 0 || want.bytes == 0 {
            return Ok(Vec::new());
        }
        let token = Uuid::new_v4();
        let mut call = self.server.script(&scripts::CLAIM);
        call.arg(worker.0.to_string())
            .arg(token.to_string())
            .arg(want.runs.min(MOST_RUNS))
            .arg(MAX_RUN)
            .arg(limit(want.fleet))
            .arg(want.bytes);
        for (observer, action, most) in &want.actions {
            call.arg(&**observer).arg(&**action).arg(limit(*most));
        }
        let doubt = self.doubts.begin(worker, token);
        let rows: Vec<read::Row> = self.server.run(&call).await?;
        let runs = read::runs(&rows)?;
        doubt.settle();
        Ok(runs)
    }

    /// Claims whose answers were not read are given back before anything else is taken.
    pub(super) async fn give_back_doubtful(&self) -> Result<(), QueueError> {
        while let Some(doubt) = self.doubts.next() {
            let mut call = self.server.script(&scripts::UNTAKE);
            call.arg(doubt.worker().0.to_string())
                .arg(doubt.token().to_string())
                .arg(TOKEN_SECONDS);
            let given: u64 = self.server.run(&call).await?;
            if given > 0 {
                tracing::info!(
                    jobs = given,
                    "gave back jobs of a claim whose answer was lost"
                );
            }
            doubt.settle();
        }
        Ok(())
    }
}

fn limit(most: Option<u32>) -> String {
    most.map(|most| most.to_string()).unwrap_or_default()
}
