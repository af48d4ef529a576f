//! Queries about jobs.

use sqlx::Row;
use sqlx::postgres::PgRow;

use super::PostgresQueue;
use super::columns::{priority, raw, states};
use super::hash::lane_id;
use crate::history::last_error;
use crate::{
    JobFilter, JobState, JobView, Lane, LaneHead, LanesOfAction, MAX_LANES_PER_QUERY, QueueError,
    QueueStats,
};

const PENDING_FIELDS: &str = "j.id, j.state::text as state, j.dedup_key, j.observer, j.action, j.event_id, j.entity, j.key, j.tenant,
    j.priority, j.attempts, j.enqueued_at, j.scheduled_at, w.name as worker, j.history::text as history";

const FINISHED_FIELDS: &str = "d.id, 'c' as state, d.dedup_key, d.observer, d.action, d.event_id, d.entity, d.key, d.tenant,
    d.priority, d.attempts, d.enqueued_at, d.finished_at as scheduled_at, null::text as worker, d.history::text as history";

const PENDING_FILTER: &str =
    "j.queue = observer.job_queue_of($1) and ($2::text[] is null or j.dedup_key = any($2))
    and ($3::text is null or j.observer = $3) and ($4::text is null or j.action = $4)
    and ($5::text[] is null or j.state::text = any($5)) and ($6::text is null or j.tenant = $6)";

const FINISHED_FILTER: &str =
    "d.queue = observer.job_queue_of($1) and ($2::text[] is null or d.dedup_key = any($2))
    and ($3::text is null or d.observer = $3) and ($4::text is null or d.action = $4)
    and ($5::text[] is null or $5 = '{}') and ($6::text is null or d.tenant = $6)";

impl PostgresQueue {
    pub(super) async fn query_lane_heads(
        &self,
        lanes: &[Lane],
    ) -> Result<Vec<Option<LaneHead>>, QueueError> {
        let mut heads = Vec::with_capacity(lanes.len());
        for lanes in lanes.chunks(MAX_LANES_PER_QUERY) {
            let numbers: Vec<i64> = lanes
                .iter()
                .map(|lane| lane_id(&self.listener, lane))
                .collect();
            let rows = sqlx::query(
                "select f.log_id, f.event_id, f.attempts, f.history
                 from unnest($1::bigint[]) with ordinality l(lane_id, n)
                 left join lateral (
                     select j.log_id, j.event_id, j.attempts, j.history::text as history from observer.job j
                     where j.lane_id = l.lane_id order by j.id limit 1
                 ) f on true
                 order by l.n",
            )
            .bind(numbers)
            .fetch_all(&self.pool)
            .await?;
            for row in &rows {
                heads.push(lane_head(row)?);
            }
        }
        Ok(heads)
    }

    pub(super) async fn query_lanes(
        &self,
        shards: &[u16],
        shard_count: u16,
        max_lanes: usize,
    ) -> Result<Vec<LanesOfAction>, QueueError> {
        let remainders: Vec<i32> = shards.iter().copied().map(i32::from).collect();
        let max_lanes = i64::try_from(max_lanes).unwrap_or(i64::MAX - 1);
        let rows = sqlx::query(
            "with recursive act as (
                 (select j.lane_id >> 32 as upper from observer.job j order by j.lane_id limit 1)
                 union all
                 select (select j.lane_id >> 32 from observer.job j where j.lane_id >= (a.upper + 1) << 32
                         order by j.lane_id limit 1)
                 from act a where a.upper is not null
             )
             select f.observer, f.action,
                    case when max(f.n) <= $4 then array_agg(f.hash) filter (where f.hash % $3 = any($2)) end as hashes,
                    max(f.n) > $4 as many
             from act a cross join lateral (
                 with recursive lane as (
                     (select j.lane_id, j.queue, j.observer, j.action, j.hash, 1::bigint as n from observer.job j
                      where j.lane_id >= a.upper << 32 and j.lane_id < (a.upper + 1) << 32
                      order by j.lane_id, j.id limit 1)
                     union all
                     select next.*, l.n + 1 from lane l cross join lateral (
                         select j.lane_id, j.queue, j.observer, j.action, j.hash from observer.job j
                         where j.lane_id > l.lane_id and j.lane_id < (a.upper + 1) << 32
                         order by j.lane_id, j.id limit 1
                     ) next
                     where l.n <= $4
                 )
                 select l.* from lane l where l.queue = observer.job_queue_of($1)
             ) f
             where a.upper is not null
             group by 1, 2 order by 1, 2",
        )
        .bind(&self.listener)
        .bind(remainders)
        .bind(i32::from(shard_count.max(1)))
        .bind(max_lanes)
        .fetch_all(&self.pool)
        .await?;
        let mut all = Vec::with_capacity(rows.len());
        for row in &rows {
            let hashes: Option<Vec<i32>> = row.try_get("hashes")?;
            if hashes.is_none() && !row.try_get::<bool, _>("many")? {
                // Its lanes belong to other shards.
                continue;
            }
            all.push(LanesOfAction {
                observer: row.try_get::<&str, _>("observer")?.into(),
                action: row.try_get::<&str, _>("action")?.into(),
                hashes: hashes.map(|all| all.into_iter().map(i32::unsigned_abs).collect()),
            });
        }
        Ok(all)
    }

    pub(super) async fn query_stats(&self) -> Result<Vec<(String, QueueStats)>, QueueError> {
        let rows = sqlx::query(
            "select observer, count(*) as pending,
                    count(*) filter (where state = 'a' or state = 's' and scheduled_at <= clock_timestamp())
                        as available,
                    count(*) filter (where state = 'r') as running, count(*) filter (where state = 'b') as blocked,
                    array[
                        count(*) filter (where attempts = 0), count(*) filter (where attempts = 1),
                        count(*) filter (where attempts between 2 and 3),
                        count(*) filter (where attempts between 4 and 7), count(*) filter (where attempts >= 8)
                    ] as by_attempts,
                    extract(epoch from greatest(clock_timestamp() - min(enqueued_at), '0'))::bigint as oldest
             from observer.job where queue = observer.job_queue_of($1) group by 1 order by 1",
        )
        .bind(&self.listener)
        .fetch_all(&self.pool)
        .await?;
        rows.iter().map(stats).collect()
    }

    pub(super) async fn query_jobs(
        &self,
        filter: &JobFilter,
        limit: usize,
    ) -> Result<(Vec<JobView>, u64), QueueError> {
        let sql = format!(
            "(select {PENDING_FIELDS} from observer.job j left join observer.job_worker w on w.id = j.worker
              where {PENDING_FILTER} order by j.enqueued_at limit $7)
             union all
             (select {FINISHED_FIELDS} from observer.finished_job d where {FINISHED_FILTER} order by d.enqueued_at limit $7)
             order by enqueued_at, id limit $7"
        );
        let rows = bind(
            sqlx::query(sqlx::AssertSqlSafe(sql)),
            &self.listener,
            filter,
        )
        .bind(i64::try_from(limit).unwrap_or(i64::MAX))
        .fetch_all(&self.pool)
        .await?;
        let counted = format!(
            "select (select count(*) from observer.job j where {PENDING_FILTER})
                  + (select count(*) from observer.finished_job d where {FINISHED_FILTER})"
        );
        let total: i64 = bind(
            sqlx::query(sqlx::AssertSqlSafe(counted)),
            &self.listener,
            filter,
        )
        .fetch_one(&self.pool)
        .await?
        .try_get(0)?;
        let jobs = rows.iter().map(job_view).collect::<Result<_, _>>()?;
        Ok((jobs, total.unsigned_abs()))
    }

    pub(super) async fn query_job(
        &self,
        id: &str,
        tenant: Option<&str>,
    ) -> Result<Option<JobView>, QueueError> {
        let sql = format!(
            "select {PENDING_FIELDS}, j.event::text as event
             from observer.job j left join observer.job_worker w on w.id = j.worker
             where j.queue = observer.job_queue_of($1) and j.dedup_key = $2 and ($3::text is null or j.tenant = $3)
             union all
             select {FINISHED_FIELDS}, d.event::text as event from observer.finished_job d
             where d.queue = observer.job_queue_of($1) and d.dedup_key = $2 and ($3::text is null or d.tenant = $3)
             limit 1"
        );
        let row = sqlx::query(sqlx::AssertSqlSafe(sql))
            .bind(&self.listener)
            .bind(id)
            .bind(tenant)
            .fetch_optional(&self.pool)
            .await?;
        let Some(row) = row else { return Ok(None) };
        let mut job = job_view(&row)?;
        job.history = Some(raw(row.try_get("history")?)?);
        job.event = Some(raw(row.try_get("event")?)?);
        Ok(Some(job))
    }

    /// Finds each job by the index on its id: a lateral join leaves the planner no other way.
    pub(super) async fn find_jobs(&self, ids: &[String]) -> Result<Vec<JobView>, QueueError> {
        let sql = format!(
            "with queue as materialized (select observer.job_queue_of($1) as id)
             select {PENDING_FIELDS}
             from queue cross join unnest($2::text[]) as wanted(id)
             cross join lateral (select * from observer.job one where one.dedup_key = wanted.id) j
             left join observer.job_worker w on w.id = j.worker
             where j.queue = queue.id
             union all
             select {FINISHED_FIELDS}
             from queue cross join unnest($2::text[]) as wanted(id)
             cross join lateral (select * from observer.finished_job one where one.dedup_key = wanted.id) d
             where d.queue = queue.id"
        );
        let rows = sqlx::query(sqlx::AssertSqlSafe(sql))
            .bind(&self.listener)
            .bind(ids)
            .fetch_all(&self.pool)
            .await?;
        let mut jobs = Vec::with_capacity(rows.len());
        for row in &rows {
            let mut job = job_view(row)?;
            job.history = Some(raw(row.try_get("history")?)?);
            jobs.push(job);
        }
        Ok(jobs)
    }

    pub(super) async fn query_is_empty(&self) -> Result<bool, QueueError> {
        // A lane that holds jobs has one that is not blocked.
        let empty = sqlx::query_scalar(
            "select not exists (select from observer.job j where j.queue = q.id and j.state = 'a')
                and not exists (select from observer.job j where j.queue = q.id and j.state = 's')
                and not exists (select from observer.job j where j.queue = q.id and j.state = 'r')
             from (select observer.job_queue_of($1) as id) q",
        )
        .bind(&self.listener)
        .fetch_one(&self.pool)
        .await?;
        Ok(empty)
    }
}

type Query<'q> = sqlx::query::Query<'q, sqlx::Postgres, sqlx::postgres::PgArguments>;

fn bind<'q>(query: Query<'q>, listener: &'q str, filter: &'q JobFilter) -> Query<'q> {
    query
        .bind(listener)
        .bind(&filter.ids)
        .bind(&filter.observer)
        .bind(&filter.action)
        .bind(states(filter.state))
        .bind(&filter.tenant)
}

fn lane_head(row: &PgRow) -> Result<Option<LaneHead>, QueueError> {
    let Some(event_id) = row.try_get("event_id")? else {
        return Ok(None);
    };
    Ok(Some(LaneHead {
        log_id: row.try_get("log_id")?,
        event_id,
        attempts: row.try_get::<i32, _>("attempts")?.unsigned_abs(),
        error: last_error(row.try_get("history")?),
    }))
}

fn stats(row: &PgRow) -> Result<(String, QueueStats), QueueError> {
    let number = |name: &str| row.try_get::<i64, _>(name).map(i64::unsigned_abs);
    let by_attempts: Vec<i64> = row.try_get("by_attempts")?;
    let mut stats = QueueStats {
        pending: number("pending")?,
        available: number("available")?,
        running: number("running")?,
        blocked: number("blocked")?,
        by_attempts: [0; 5],
        oldest_seconds: number("oldest")?,
    };
    for (count, counted) in stats.by_attempts.iter_mut().zip(by_attempts) {
        *count = counted.unsigned_abs();
    }
    Ok((row.try_get("observer")?, stats))
}

fn job_view(row: &PgRow) -> Result<JobView, QueueError> {
    let state = match row.try_get::<&str, _>("state")? {
        "r" => JobState::Running,
        "b" => JobState::Blocked,
        "c" => JobState::Completed,
        "s" => JobState::Scheduled,
        _ => JobState::Available,
    };
    Ok(JobView {
        id: row.try_get("dedup_key")?,
        state,
        observer: row.try_get("observer")?,
        action: row.try_get("action")?,
        event_id: row.try_get("event_id")?,
        entity: row.try_get("entity")?,
        key: row.try_get("key")?,
        tenant: row.try_get("tenant")?,
        priority: format!("{:?}", priority(row.try_get("priority")?)),
        attempts: row.try_get::<i32, _>("attempts")?.unsigned_abs(),
        enqueued_at: row.try_get("enqueued_at")?,
        scheduled_at: row.try_get("scheduled_at")?,
        worker: row.try_get("worker")?,
        error: last_error(row.try_get("history")?),
        history: None,
        event: None,
    })
}
