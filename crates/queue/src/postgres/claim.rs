//! Claiming jobs.

use std::collections::HashMap;
use std::time::Duration;

use chrono::{DateTime, Utc};
use sqlx::Row;
use sqlx::postgres::PgRow;

use super::PostgresQueue;
use super::columns::{self, integer};
use super::hash::{self, RoundRobinCursor};
use crate::{
    ClaimRequest, ClaimToken, ClaimedJob, Job, Lane, LaneBatch, MAX_JOBS_PER_LANE, QueueError,
    WorkerId,
};

impl PostgresQueue {
    pub(super) async fn claim_batches(
        &self,
        worker: WorkerId,
        request: &ClaimRequest,
    ) -> Result<Vec<LaneBatch>, QueueError> {
        if request.max_lanes == 0 || request.actions.is_empty() {
            return Ok(Vec::new());
        }
        let cursor = self.cursor();
        let actions = request
            .actions
            .iter()
            .map(|(observer, action, _)| hash::action_hash(observer, action));
        let limits = request
            .actions
            .iter()
            .map(|(_, _, limit)| limit.map(integer));
        let rows = sqlx::query(
            "select * from observer.job_claim($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)",
        )
        .bind(&self.listener)
        .bind(worker.0)
        .bind(i32::try_from(request.max_lanes).unwrap_or(i32::MAX))
        .bind(i32::try_from(MAX_JOBS_PER_LANE).unwrap_or(i32::MAX))
        .bind(actions.collect::<Vec<_>>())
        .bind(limits.collect::<Vec<_>>())
        .bind(request.max_running_total.map(integer))
        .bind(cursor.action_hash)
        .bind(cursor.tenant_hash)
        .bind(i64::try_from(request.max_bytes).unwrap_or(i64::MAX))
        .fetch_all(&self.pool)
        .await?;
        let (batches, last) = into_batches(&rows)?;
        if let Some(last) = last {
            self.set_cursor(last);
        }
        Ok(batches)
    }
}

/// Order of a batch: the number of its round in the claim, then the due time and id of its first job.
type BatchOrder = (i32, DateTime<Utc>, i64);

/// Groups claimed rows into batches, and returns the rotation's position after the last one. Only the
/// first job of a lane has a round; those behind it follow by their ids.
fn into_batches(rows: &[PgRow]) -> Result<(Vec<LaneBatch>, Option<RoundRobinCursor>), QueueError> {
    let mut heads: Vec<(BatchOrder, &PgRow)> = Vec::with_capacity(rows.len());
    let mut blocked: HashMap<i64, Vec<(i64, &PgRow)>> = HashMap::new();
    for row in rows {
        let id: i64 = row.try_get("id")?;
        if let Some(round) = row.try_get("batch")? {
            heads.push(((round, row.try_get("scheduled_at")?, id), row));
        } else {
            let lane = blocked.entry(row.try_get("lane_id")?).or_default();
            lane.push((id, row));
        }
    }
    heads.sort_unstable_by_key(|(order, _)| *order);
    let mut batches = Vec::with_capacity(heads.len());
    for (_, head) in &heads {
        let mut jobs = vec![claimed_job(head)?];
        if !blocked.is_empty()
            && let Some(mut rest) = blocked.remove(&head.try_get("lane_id")?)
        {
            rest.sort_unstable_by_key(|(id, _)| *id);
            for (_, row) in rest {
                jobs.push(claimed_job(row)?);
            }
        }
        batches.push(LaneBatch { jobs });
    }
    let last = match heads.last() {
        Some((_, head)) => Some(RoundRobinCursor {
            action_hash: head.try_get("action_hash")?,
            tenant_hash: head.try_get("tenant_hash")?,
        }),
        None => None,
    };
    Ok((batches, last))
}

/// Decodes the token of a claimed row: its partition, id, and `ctid` during the claim.
pub(super) fn token(row: &PgRow) -> Result<ClaimToken, QueueError> {
    let partition: i16 = row.try_get("partition_no")?;
    let id: i64 = row.try_get("id")?;
    let ctid: &str = row.try_get("at")?;
    Ok(ClaimToken {
        job_ref: format!("{partition}.{id}.{ctid}"),
        generation: row.try_get("claim_generation")?,
    })
}

fn claimed_job(row: &PgRow) -> Result<ClaimedJob, QueueError> {
    let queue_delay: f64 = row.try_get("late")?;
    let attempts: i32 = row.try_get("attempts")?;
    Ok(ClaimedJob {
        job: Job {
            id: row.try_get("dedup_key")?,
            lane: Lane {
                observer: row.try_get::<&str, _>("observer")?.into(),
                action: row.try_get::<&str, _>("action")?.into(),
                hash: row.try_get::<i32, _>("hash")?.unsigned_abs(),
            },
            log_id: row.try_get("log_id")?,
            event_id: row.try_get("event_id")?,
            entity: row.try_get("entity")?,
            key: row.try_get("key")?,
            tenant: row.try_get("tenant")?,
            priority: columns::priority(row.try_get("priority")?),
            event: columns::raw(row.try_get("event")?)?,
        },
        claim: token(row)?,
        attempts: attempts.unsigned_abs(),
        history: columns::raw(row.try_get("history")?)?,
        enqueued_at: row.try_get("enqueued_at")?,
        queue_delay: Duration::try_from_secs_f64(queue_delay).unwrap_or_default(),
    })
}
