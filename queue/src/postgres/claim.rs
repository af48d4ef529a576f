//! Jobs on their way in and out to workers.

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
        let histories = jobs.iter().map(|new| new.history.get());
        sqlx::query(
            "select observer.job_enqueue($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17,
                                         $18)",
        )
        .bind(&self.listener)
        .bind(text(&|job| &job.id))
        .bind(each(&|job| lane_number(&self.listener, &job.lane)))
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
        .bind(text(&|job| job.event.get()))
        .bind(waits.collect::<Vec<_>>())
        .bind(attempts.collect::<Vec<_>>())
        .bind(histories.collect::<Vec<_>>())
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
        let rows =
            sqlx::query("select * from observer.job_claim($1, $2, $3, $4, $5, $6, $7, $8, $9)")
                .bind(&self.listener)
                .bind(worker.0)
                .bind(i32::try_from(want.runs).unwrap_or(i32::MAX))
                .bind(i32::try_from(MAX_RUN).unwrap_or(i32::MAX))
                .bind(acts.collect::<Vec<_>>())
                .bind(limits.collect::<Vec<_>>())
                .bind(want.fleet.map(integer))
                .bind(after.act)
                .bind(after.turn)
                .fetch_all(&self.pool)
                .await?;
        let mut runs: Vec<(i32, Run)> = Vec::new();
        let mut last = None;
        for row in &rows {
            let number: i32 = row.try_get("run")?;
            let job = claimed(row)?;
            match runs.last_mut() {
                Some((of, run)) if *of == number => run.jobs.push(job),
                _ => {
                    runs.push((number, Run { jobs: vec![job] }));
                    last = Some(Turn {
                        act: row.try_get("act")?,
                        turn: row.try_get("turn")?,
                    });
                }
            }
        }
        if let Some(last) = last {
            self.set_after(last);
        }
        Ok(runs.into_iter().map(|(_, run)| run).collect())
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
            "select slot, id, lane, claim from observer.job
             where queue = observer.job_queue_of($1) and state = 'c' and worker = $2 and cancelled",
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

fn claim(row: &PgRow) -> Result<Claim, QueueError> {
    let slot: i16 = row.try_get("slot")?;
    let id: i64 = row.try_get("id")?;
    Ok(Claim {
        place: format!("{slot}.{id}"),
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
