//! Adding jobs.

use super::{RedisQueue, read, scripts};
use crate::{NewJob, QueueError};

/// Most jobs that one script adds.
const MOST_AT_ONCE: usize = 256;

/// Bytes of events and histories from which on one script adds no more; more by one job at most.
const BYTES_AT_ONCE: usize = 4 * 1024 * 1024;

impl RedisQueue {
    /// In parts, each whole or not at all. Repeated after an error, those added before are left out.
    pub(super) async fn add(&self, jobs: &[NewJob]) -> Result<(), QueueError> {
        let mut rest = jobs;
        while !rest.is_empty() {
            let (part, after) = rest.split_at(part_of(rest));
            let mut call = self.server.script(&scripts::ENQUEUE);
            for new in part {
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
                    .arg(read::priority_digit(job.priority))
                    .arg(job.event.get())
                    .arg(read::micros(new.wait))
                    .arg(new.attempts)
                    .arg(new.history.get());
            }
            let _: u64 = self.server.run(&call).await?;
            rest = after;
        }
        Ok(())
    }
}

/// How many of the next jobs go together; at least one.
fn part_of(jobs: &[NewJob]) -> usize {
    let mut bytes = 0;
    for (n, new) in jobs.iter().enumerate().take(MOST_AT_ONCE) {
        bytes += new.job.event.get().len() + new.history.get().len();
        if bytes >= BYTES_AT_ONCE {
            return n + 1;
        }
    }
    jobs.len().min(MOST_AT_ONCE)
}
