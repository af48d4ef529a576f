//! Adding jobs.

use super::{RedisQueue, decode, scripts};
use crate::{NewJob, QueueError};

/// Most jobs of one script.
const MAX_BATCH: usize = 256;

/// Bytes of events and histories after which a script takes no further job.
const BATCH_BYTES: usize = 4 * 1024 * 1024;

impl RedisQueue {
    /// Adds jobs in batches, each of them atomic. A repeat after an error skips jobs that were added before.
    pub(super) async fn insert(&self, jobs: &[NewJob]) -> Result<(), QueueError> {
        let mut rest = jobs;
        while !rest.is_empty() {
            let (batch, after) = rest.split_at(batch_size(rest));
            let mut call = self.server.script(&scripts::ENQUEUE);
            for new in batch {
                let job = &new.job;
                call.arg(&job.id)
                    .arg(&*job.lane.observer)
                    .arg(&*job.lane.action)
                    .arg(job.lane.hash)
                    .arg(job.log_id)
                    .arg(&job.event_id)
                    .arg(&job.entity)
                    .arg(job.key.as_deref().unwrap_or_default())
                    .arg(u8::from(job.key.is_some()))
                    .arg(job.tenant.as_deref().unwrap_or_default())
                    .arg(u8::from(job.tenant.is_some()))
                    .arg(decode::priority_digit(job.priority))
                    .arg(job.event.get())
                    .arg(decode::micros(new.delay))
                    .arg(new.attempts)
                    .arg(new.history.get());
            }
            let _: u64 = self.server.run(&call).await?;
            rest = after;
        }
        Ok(())
    }
}

/// Returns how many of the next jobs form a batch; at least one.
fn batch_size(jobs: &[NewJob]) -> usize {
    let mut bytes = 0;
    for (n, new) in jobs.iter().enumerate().take(MAX_BATCH) {
        bytes += new.job.event.get().len() + new.history.get().len();
        if bytes >= BATCH_BYTES {
            return n + 1;
        }
    }
    jobs.len().min(MAX_BATCH)
}
