//! Workers' signs of life, and what is to be seen to from time to time.

use super::{MOST_FINISHED, MOST_REMEMBERED, REMEMBERED, RedisQueue, read, scripts};
use crate::{Alive, Claim, Kept, QueueError, WorkerId};

/// Most attempts that a job's history tells of.
const MAX_HISTORY: usize = 20;

/// What the history says of an attempt whose worker was never heard of again.
const LOST: &str = "the worker was not heard of any more";

/// Most jobs that one script takes back.
const RELEASED_AT_ONCE: usize = 256;

/// Most scripts that take back what one worker holds; what is left is for the next call.
const MOST_RELEASES: usize = 1000;

/// Most of each kind that one call of `keep` sees to.
const KEPT_AT_ONCE: usize = 1000;

/// Jobs that one call of `keep` looks at, to see whether they are where they should be.
const AUDITED: usize = 50;

/// The same, and the most such steps in one call, once a stream or its group is known to be lost.
const AUDITED_WHEN_TORN: usize = 1000;
const MOST_AUDITS: usize = 200;

impl RedisQueue {
    pub(super) async fn welcome(&self, worker: WorkerId, name: &str) -> Result<(), QueueError> {
        // It does not know of anything that it held before.
        self.release(worker, LOST, true).await?;
        self.release(worker, "", false).await?;
        self.sign(worker, if name.is_empty() { "-" } else { name })
            .await?;
        Ok(())
    }

    pub(super) async fn renew(&self, worker: WorkerId) -> Result<Alive, QueueError> {
        let answer = self.sign(worker, "").await?;
        let Some((alive, cut)) = answer.split_first() else {
            return Err(QueueError::Unreadable("a sign of life".to_owned()));
        };
        if alive == "1" {
            return Ok(Alive::Yes {
                cancelled: cut
                    .iter()
                    .map(|claim| read::claim(claim))
                    .collect::<Result<Vec<Claim>, _>>()?,
            });
        }
        self.release(worker, LOST, true).await?;
        Ok(Alive::No)
    }

    pub(super) async fn farewell(&self, worker: WorkerId) -> Result<(), QueueError> {
        self.release(worker, "", false).await?;
        Ok(())
    }

    async fn sign(&self, worker: WorkerId, name: &str) -> Result<Vec<String>, QueueError> {
        let mut call = self.server.script(&scripts::WORKER);
        call.arg(worker.0.to_string())
            .arg(read::micros(self.keeping.lease))
            .arg(name);
        self.server.run(&call).await
    }

    /// Takes back what a worker holds. Answers with how many jobs that were.
    async fn release(
        &self,
        worker: WorkerId,
        lost: &str,
        only_expired: bool,
    ) -> Result<u64, QueueError> {
        let mut all = 0;
        for _ in 0..MOST_RELEASES {
            let mut call = self.server.script(&scripts::RELEASE);
            call.arg(worker.0.to_string())
                .arg(lost)
                .arg(RELEASED_AT_ONCE)
                .arg(MAX_HISTORY)
                .arg(u8::from(only_expired));
            let some: u64 = self.server.run(&call).await?;
            all += some;
            if some == 0 {
                break;
            }
        }
        Ok(all)
    }

    pub(super) async fn tidy(&self) -> Result<Kept, QueueError> {
        let mut call = self.server.script(&scripts::KEEP);
        call.arg(read::micros(REMEMBERED))
            .arg(MOST_REMEMBERED)
            .arg(read::micros(self.keeping.retention))
            .arg(MOST_FINISHED)
            .arg(KEPT_AT_ONCE);
        let answer: Vec<String> = self.server.run(&call).await?;
        let Some((torn, workers)) = answer.split_first() else {
            return Err(QueueError::Unreadable("what is to be kept".to_owned()));
        };
        let mut kept = Kept::default();
        for worker in workers {
            let worker = worker
                .parse()
                .map_err(|_| QueueError::Unreadable("a worker's name".to_owned()))?;
            kept.expired += self.release(WorkerId(worker), LOST, true).await?;
        }
        self.audit(torn == "1").await?;
        Ok(kept)
    }

    /// Puts jobs where their hashes say that they are: a few, or all where streams are lost.
    async fn audit(&self, torn: bool) -> Result<(), QueueError> {
        let (part, most) = if torn {
            (AUDITED_WHEN_TORN, MOST_AUDITS)
        } else {
            (AUDITED, 1)
        };
        let mut all = 0;
        for _ in 0..most {
            let mut call = self.server.script(&scripts::AUDIT);
            call.arg(part);
            let (lost, mended): (u8, u64) = self.server.run(&call).await?;
            all += mended;
            if lost == 0 {
                break;
            }
        }
        if all > 0 {
            tracing::warn!(
                jobs = all,
                "jobs in Redis were not where they should be, and are again"
            );
        }
        Ok(())
    }
}
