//! Jobs on their way in and out to workers.

use std::collections::{HashMap, HashSet};

use chrono::{DateTime, Utc};
use sqlx::postgres::PgRow;
use sqlx::{PgConnection, Row};

use super::keys::{self, Turn};
use super::{PostgresQueue, select};
use crate::{Alive, Claim, Claimed, Job, Lane, MAX_RUN, NewJob, QueueError, Run, Want, WorkerId};

impl PostgresQueue {
    pub(super) async fn add(
        &self,
        tx: &mut PgConnection,
        jobs: &[NewJob],
    ) -> Result<(), QueueError> {
        if jobs.is_empty() {
            return Ok(());
        }
        let each =
            |of: &dyn Fn(&Job) -> i64| jobs.iter().map(|new| of(&new.job)).collect::<Vec<_>>();
        let text = |of: &dyn for<'a> Fn(&'a Job) -> &'a str| {
            jobs.iter()
                .map(|new| of(&new.job).to_owned())
                .collect::<Vec<_>>()
        };
        let maybe = |of: &dyn Fn(&Job) -> Option<String>| {
            jobs.iter().map(|new| of(&new.job)).collect::<Vec<_>>()
        };
        let turns = jobs.iter().map(|new| keys::turn(new.job.tenant.as_deref()));
        let priorities = jobs
            .iter()
            .map(|new| select::priority_number(new.job.priority));
        let hashes = jobs.iter().map(|new| integer(new.job.lane.hash));
        let waits = jobs.iter().map(|new| new.wait.as_secs_f64());
        let attempts = jobs.iter().map(|new| integer(new.attempts));
        let events = jobs.iter().map(|new| new.job.event.get());
        let histories = jobs.iter().map(|new| new.history.get());
        let lanes = each(&|job| lane_number(&self.listener, &job.lane));
        let mut known = HashSet::with_capacity(lanes.len());
        let repeats: Vec<bool> = lanes.iter().map(|lane| !known.insert(*lane)).collect();
        sqlx::query(
            "select observer.job_enqueue($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17,
                                         $18, $19)",
        )
        .bind(&self.listener)
        .bind(text(&|job| &job.id))
        .bind(lanes)
        .bind(each(&|job| keys::act(&job.lane.observer, &job.lane.action)))
        .bind(turns.collect::<Vec<_>>())
        .bind(priorities.collect::<Vec<_>>())
        .bind(hashes.collect::<Vec<_>>())
        .bind(each(&|job| job.log_id))
        .bind(text(&|job| &job.event_id))
        .bind(text(&|job| &job.lane.observer))
        .bind(text(&|job| &job.lane.action))
        .bind(text(&|job| &job.entity))
        .bind(maybe(&|job| job.key.clone()))
        .bind(maybe(&|job| job.tenant.clone()))
        .bind(events.collect::<Vec<_>>())
        .bind(waits.collect::<Vec<_>>())
        .bind(attempts.collect::<Vec<_>>())
        .bind(histories.collect::<Vec<_>>())
        .bind(repeats)
        .execute(tx)
        .await?;
        Ok(())
    }

    pub(super) async fn take(&self, worker: WorkerId, want: &Want) -> Result<Vec<Run>, QueueError> {
        if want.runs == 0 || want.actions.is_empty() {
            return Ok(Vec::new());
        }
        let after = self.after();
        let acts = want
            .actions
            .iter()
            .map(|(observer, action, _)| keys::act(observer, action));
        let limits = want.actions.iter().map(|(_, _, most)| most.map(integer));
        let rows = sqlx::query(
            "select * from observer.job_claim($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)",
        )
        .bind(&self.listener)
        .bind(worker.0)
        .bind(i32::try_from(want.runs).unwrap_or(i32::MAX))
        .bind(i32::try_from(MAX_RUN).unwrap_or(i32::MAX))
        .bind(acts.collect::<Vec<_>>())
        .bind(limits.collect::<Vec<_>>())
        .bind(want.fleet.map(integer))
        .bind(after.act)
        .bind(after.turn)
        .bind(i64::try_from(want.bytes).unwrap_or(i64::MAX))
        .fetch_all(&self.pool)
        .await?;
        let (runs, last) = in_order(&rows)?;
        if let Some(last) = last {
            self.set_after(last);
        }
        Ok(runs)
    }

    pub(super) async fn renew(&self, worker: WorkerId) -> Result<Alive, QueueError> {
        let renewed = sqlx::query(
            "update observer.job_worker
             set expires_at = clock_timestamp() + make_interval(secs => $3)
             where id = $2 and queue = observer.job_queue_of($1) and expires_at > clock_timestamp()",
        )
        .bind(&self.listener)
        .bind(worker.0)
        .bind(self.keeping.lease.as_secs_f64())
        .execute(&self.pool)
        .await?;
        if renewed.rows_affected() == 0 {
            return Ok(Alive::No);
        }
        let rows = sqlx::query(
            "select slot, id, cancelled::text as at, claim from observer.job
             where queue = observer.job_queue_of($1) and state = 'c' and worker = $2 and cancelled is not null",
        )
        .bind(&self.listener)
        .bind(worker.0)
        .fetch_all(&self.pool)
        .await?;
        let cancelled = rows.iter().map(claim).collect::<Result<_, _>>()?;
        Ok(Alive::Yes { cancelled })
    }
}

/// The number of a lane.
pub(super) fn lane_number(listener: &str, lane: &Lane) -> i64 {
    keys::lane(listener, &lane.observer, &lane.action, lane.hash)
}

/// As the tables hold it; what is larger than they can hold is as large as they can.
pub(super) fn integer(number: u32) -> i32 {
    i32::try_from(number).unwrap_or(i32::MAX)
}

/// Where a lane's first job belongs: the batch with which it was taken, when it was due, its id.
type Place = (i32, DateTime<Utc>, i64);

/// Claimed rows as runs, and the turn of the last one. A lane's first job tells where its run
/// belongs; those behind it come in the order of their ids.
fn in_order(rows: &[PgRow]) -> Result<(Vec<Run>, Option<Turn>), QueueError> {
    let mut heads: Vec<(Place, &PgRow)> = Vec::with_capacity(rows.len());
    let mut behind: HashMap<i64, Vec<(i64, &PgRow)>> = HashMap::new();
    for row in rows {
        let id: i64 = row.try_get("id")?;
        if let Some(batch) = row.try_get("batch")? {
            heads.push(((batch, row.try_get("due")?, id), row));
        } else {
            let lane = behind.entry(row.try_get("lane")?).or_default();
            lane.push((id, row));
        }
    }
    heads.sort_unstable_by_key(|(place, _)| *place);
    let mut runs = Vec::with_capacity(heads.len());
    for (_, head) in &heads {
        let mut jobs = vec![claimed(head)?];
        if !behind.is_empty()
            && let Some(mut rest) = behind.remove(&head.try_get("lane")?)
        {
            rest.sort_unstable_by_key(|(id, _)| *id);
            for (_, row) in rest {
                jobs.push(claimed(row)?);
            }
        }
        runs.push(Run { jobs });
    }
    let last = match heads.last() {
        Some((_, head)) => Some(Turn {
            act: head.try_get("act")?,
            turn: head.try_get("turn")?,
        }),
        None => None,
    };
    Ok((runs, last))
}

/// Where a claimed row is: its slot, its id, and where in the table it lies until the claim ends.
fn claim(row: &PgRow) -> Result<Claim, QueueError> {
    let slot: i16 = row.try_get("slot")?;
    let id: i64 = row.try_get("id")?;
    let at: &str = row.try_get("at")?;
    Ok(Claim {
        place: format!("{slot}.{id}.{at}"),
        number: row.try_get("claim")?,
    })
}

fn claimed(row: &PgRow) -> Result<Claimed, QueueError> {
    let late: f64 = row.try_get("late")?;
    let attempts: i32 = row.try_get("attempts")?;
    Ok(Claimed {
        job: Job {
            id: row.try_get("name")?,
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
            priority: select::priority(row.try_get("priority")?),
            event: select::raw(row.try_get("event")?)?,
        },
        claim: claim(row)?,
        attempts: attempts.unsigned_abs(),
        history: select::raw(row.try_get("history")?)?,
        enqueued_at: row.try_get("enqueued_at")?,
        late: std::time::Duration::try_from_secs_f64(late).unwrap_or_default(),
    })
}
