//! What is told of jobs.

use serde::Deserialize;
use sqlx::Row;
use sqlx::postgres::PgRow;

use super::PostgresQueue;
use super::claim::lane_number;
use super::select::{priority, raw, states};
use crate::{ActionLanes, Figures, First, Lane, MAX_ASKED, QueueError, Selection, Shown, State};

/// The one thing that is read of an attempt.
#[derive(Deserialize)]
struct Attempt {
    #[serde(default)]
    error: Option<String>,
}

const SHOWN: &str = "j.id, j.state::text as state, j.name, j.observer, j.action, j.event_id, j.entity, j.key, j.tenant,
    j.priority, j.attempts, j.enqueued_at, j.due, w.name as worker, j.history::text as history";

const OVER: &str = "d.id, 'f' as state, d.name, d.observer, d.action, d.event_id, d.entity, d.key, d.tenant,
    d.priority, d.attempts, d.enqueued_at, d.ended_at as due, null::text as worker, d.history::text as history";

const PENDING_SELECTED: &str =
    "j.queue = observer.job_queue_of($1) and ($2::text[] is null or j.name = any($2))
    and ($3::text is null or j.observer = $3) and ($4::text is null or j.action = $4)
    and ($5::text[] is null or j.state::text = any($5))";

const OVER_SELECTED: &str =
    "d.queue = observer.job_queue_of($1) and ($2::text[] is null or d.name = any($2))
    and ($3::text is null or d.observer = $3) and ($4::text is null or d.action = $4)
    and ($5::text[] is null or $5 = '{}')";

impl PostgresQueue {
    pub(super) async fn first_of(&self, lanes: &[Lane]) -> Result<Vec<Option<First>>, QueueError> {
        let mut all = Vec::with_capacity(lanes.len());
        for lanes in lanes.chunks(MAX_ASKED) {
            let numbers: Vec<i64> = lanes
                .iter()
                .map(|lane| lane_number(&self.listener, lane))
                .collect();
            let rows = sqlx::query(
                "select f.log_id, f.event_id, f.attempts, f.history
                 from unnest($1::bigint[]) with ordinality l(lane, n)
                 left join lateral (
                     select j.log_id, j.event_id, j.attempts, j.history::text as history from observer.job j
                     where j.lane = l.lane order by j.id limit 1
                 ) f on true
                 order by l.n",
            )
            .bind(numbers)
            .fetch_all(&self.pool)
            .await?;
            for row in &rows {
                all.push(first(row)?);
            }
        }
        Ok(all)
    }

    pub(super) async fn lanes_of(
        &self,
        shards: &[u16],
        of: u16,
        most: usize,
    ) -> Result<Vec<ActionLanes>, QueueError> {
        let remainders: Vec<i32> = shards.iter().copied().map(i32::from).collect();
        let most = i64::try_from(most).unwrap_or(i64::MAX - 1);
        let rows = sqlx::query(
            "with recursive act as (
                 (select j.lane >> 32 as upper from observer.job j order by j.lane limit 1)
                 union all
                 select (select j.lane >> 32 from observer.job j where j.lane >= (a.upper + 1) << 32
                         order by j.lane limit 1)
                 from act a where a.upper is not null
             )
             select f.observer, f.action,
                    case when max(f.n) <= $4 then array_agg(f.hash) filter (where f.hash % $3 = any($2)) end as hashes,
                    max(f.n) > $4 as many
             from act a cross join lateral (
                 with recursive lane as (
                     (select j.lane, j.queue, j.observer, j.action, j.hash, 1::bigint as n from observer.job j
                      where j.lane >= a.upper << 32 and j.lane < (a.upper + 1) << 32
                      order by j.lane, j.id limit 1)
                     union all
                     select next.*, l.n + 1 from lane l cross join lateral (
                         select j.lane, j.queue, j.observer, j.action, j.hash from observer.job j
                         where j.lane > l.lane and j.lane < (a.upper + 1) << 32
                         order by j.lane, j.id limit 1
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
        .bind(i32::from(of.max(1)))
        .bind(most)
        .fetch_all(&self.pool)
        .await?;
        let mut all = Vec::with_capacity(rows.len());
        for row in &rows {
            let hashes: Option<Vec<i32>> = row.try_get("hashes")?;
            if hashes.is_none() && !row.try_get::<bool, _>("many")? {
                // All it has are of other shards.
                continue;
            }
            all.push(ActionLanes {
                observer: row.try_get::<&str, _>("observer")?.into(),
                action: row.try_get::<&str, _>("action")?.into(),
                hashes: hashes.map(|all| all.into_iter().map(i32::unsigned_abs).collect()),
            });
        }
        Ok(all)
    }

    pub(super) async fn count(&self) -> Result<Vec<(String, Figures)>, QueueError> {
        let rows = sqlx::query(
            "select observer, count(*) as pending,
                    count(*) filter (where state = 'r' or state = 'd' and due <= clock_timestamp()) as due,
                    count(*) filter (where state = 'c') as running, count(*) filter (where state = 'b') as behind,
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
        rows.iter().map(figures).collect()
    }

    pub(super) async fn selected(
        &self,
        what: &Selection,
        most: usize,
    ) -> Result<(Vec<Shown>, u64), QueueError> {
        let sql = format!(
            "(select {SHOWN} from observer.job j left join observer.job_worker w on w.id = j.worker
              where {PENDING_SELECTED} order by j.enqueued_at limit $6)
             union all
             (select {OVER} from observer.job_done d where {OVER_SELECTED} order by d.enqueued_at limit $6)
             order by enqueued_at, id limit $6"
        );
        let rows = bind(sqlx::query(sqlx::AssertSqlSafe(sql)), &self.listener, what)
            .bind(i64::try_from(most).unwrap_or(i64::MAX))
            .fetch_all(&self.pool)
            .await?;
        let counted = format!(
            "select (select count(*) from observer.job j where {PENDING_SELECTED})
                  + (select count(*) from observer.job_done d where {OVER_SELECTED})"
        );
        let all: i64 = bind(
            sqlx::query(sqlx::AssertSqlSafe(counted)),
            &self.listener,
            what,
        )
        .fetch_one(&self.pool)
        .await?
        .try_get(0)?;
        let shown = rows.iter().map(shown).collect::<Result<_, _>>()?;
        Ok((shown, all.unsigned_abs()))
    }

    pub(super) async fn one(&self, id: &str) -> Result<Option<Shown>, QueueError> {
        let sql = format!(
            "select {SHOWN}, j.event::text as event
             from observer.job j left join observer.job_worker w on w.id = j.worker
             where j.queue = observer.job_queue_of($1) and j.name = $2
             union all
             select {OVER}, d.event::text as event from observer.job_done d
             where d.queue = observer.job_queue_of($1) and d.name = $2
             limit 1"
        );
        let row = sqlx::query(sqlx::AssertSqlSafe(sql))
            .bind(&self.listener)
            .bind(id)
            .fetch_optional(&self.pool)
            .await?;
        let Some(row) = row else { return Ok(None) };
        let mut one = shown(&row)?;
        one.history = Some(raw(row.try_get("history")?)?);
        one.event = Some(raw(row.try_get("event")?)?);
        Ok(Some(one))
    }
}

type Query<'q> = sqlx::query::Query<'q, sqlx::Postgres, sqlx::postgres::PgArguments>;

fn bind<'q>(query: Query<'q>, listener: &'q str, what: &'q Selection) -> Query<'q> {
    query
        .bind(listener)
        .bind(&what.ids)
        .bind(&what.observer)
        .bind(&what.action)
        .bind(states(what.state))
}

/// The last failure that a history tells of; nothing where it tells of none.
fn last_error(history: &str) -> Option<String> {
    let attempts: Vec<Attempt> = serde_json::from_str(history).ok()?;
    attempts.into_iter().next_back()?.error
}

fn first(row: &PgRow) -> Result<Option<First>, QueueError> {
    let Some(event_id) = row.try_get("event_id")? else {
        return Ok(None);
    };
    Ok(Some(First {
        log_id: row.try_get("log_id")?,
        event_id,
        attempts: row.try_get::<i32, _>("attempts")?.unsigned_abs(),
        error: last_error(row.try_get("history")?),
    }))
}

fn figures(row: &PgRow) -> Result<(String, Figures), QueueError> {
    let number = |name: &str| row.try_get::<i64, _>(name).map(i64::unsigned_abs);
    let by_attempts: Vec<i64> = row.try_get("by_attempts")?;
    let mut figures = Figures {
        pending: number("pending")?,
        due: number("due")?,
        running: number("running")?,
        behind: number("behind")?,
        by_attempts: [0; 5],
        oldest_seconds: number("oldest")?,
    };
    for (figure, counted) in figures.by_attempts.iter_mut().zip(by_attempts) {
        *figure = counted.unsigned_abs();
    }
    Ok((row.try_get("observer")?, figures))
}

fn shown(row: &PgRow) -> Result<Shown, QueueError> {
    let state = match row.try_get::<&str, _>("state")? {
        "c" => State::Running,
        "b" => State::Behind,
        "f" => State::Finished,
        _ => State::Ready,
    };
    Ok(Shown {
        id: row.try_get("name")?,
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
        due: row.try_get("due")?,
        worker: row.try_get("worker")?,
        error: last_error(row.try_get("history")?),
        history: None,
        event: None,
    })
}
