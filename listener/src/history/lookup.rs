//! Where deliveries of many events are, as the checkpoints, the jobs and the dead letters tell: a few
//! queries for all of them.

use std::collections::{BTreeSet, HashMap, HashSet};

use ::queue::{JobQueue, JobView};
use serde_json::value::RawValue;
use sqlx::{PgPool, Row};

use super::outcome::{EventProgress, OutcomeError};
use crate::delivery::failure::FailureKind;

/// An event that is looked up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct EventPlace {
    /// Its id in the log.
    pub log_id: i64,
    /// Its hash and the transaction that wrote it, where they are known; else the log is asked.
    pub origin: Option<(u32, u64)>,
}

/// How far a listener is with an event.
#[derive(Clone, Debug)]
pub struct Standing {
    /// How far the checkpoint of its shard is.
    pub progress: EventProgress,
    /// Whether its place is known: it was given, or the log still holds the event.
    pub is_known: bool,
    /// Actions done of an event that the checkpoint is not past, as observer and action.
    pub done: Vec<(String, String)>,
}

impl Standing {
    /// Returns whether a delivery is done here: what is left of it is a job or a dead letter.
    #[must_use]
    pub fn is_done(&self, observer: &str, action: &str) -> bool {
        let mut done = self.done.iter();
        self.progress == EventProgress::Passed
            || done.any(|(of, name)| of == observer && name == action)
    }
}

/// A dead letter.
#[derive(Clone, Debug)]
pub struct StoredLetter {
    /// Its id.
    pub id: i64,
    /// Id of its event.
    pub event_id: String,
    /// The observer, `namespace/name`.
    pub observer: String,
    /// The action's name.
    pub action: String,
    /// Number of attempts.
    pub attempts: u32,
    /// Kind of the last failure.
    pub error_kind: String,
    /// Error of the last attempt.
    pub error: String,
    /// The latest failed attempts, as JSON.
    pub history: Box<RawValue>,
    /// Whether its redrive was requested.
    pub redrive_requested: bool,
}

impl StoredLetter {
    /// Returns whether it only requests a replay, of a delivery that is over.
    #[must_use]
    pub fn is_replay_request(&self) -> bool {
        self.redrive_requested && self.error_kind == FailureKind::Replay.as_str()
    }
}

/// A delivery that is looked up.
#[derive(Clone, Debug)]
pub struct WantedDelivery {
    /// Its event.
    pub event: EventPlace,
    /// Id of its event.
    pub event_id: String,
    /// The observer, `namespace/name`.
    pub observer: String,
    /// The action's name.
    pub action: String,
    /// Id that its job has, if it is one.
    pub job: String,
    /// Whether it was a job or a dead letter, so that the checkpoint says nothing about it.
    pub has_left_dispatch: bool,
}

/// Where a delivery is.
#[derive(Clone, Debug)]
pub enum Whereabouts {
    /// It is still to be made, or its result is not saved.
    Pending,
    /// It is a job, pending or completed.
    Job(Box<JobView>),
    /// It is a dead letter.
    DeadLetter(StoredLetter),
    /// It is none of these any more.
    Over,
}

/// Returns where deliveries are, in their order.
///
/// A dead letter may become a job meanwhile, and a job a dead letter: what is neither is looked for among
/// the jobs once more.
pub async fn look_up(
    pool: &PgPool,
    queue: &dyn JobQueue,
    listener: &str,
    wanted: &[WantedDelivery],
) -> Result<Vec<Whereabouts>, OutcomeError> {
    let asked = wanted.iter().filter(|one| !one.has_left_dispatch);
    let asked: HashSet<EventPlace> = asked.map(|one| one.event).collect();
    let standings = standings(pool, listener, &asked.into_iter().collect::<Vec<_>>()).await?;
    let is_left = |one: &&WantedDelivery| {
        let standing = standings.get(&one.event.log_id);
        one.has_left_dispatch
            || standing.is_some_and(|it| !it.is_known || it.is_done(&one.observer, &one.action))
    };
    let left: Vec<&WantedDelivery> = wanted.iter().filter(is_left).collect();
    let mut jobs = jobs(queue, left.iter().map(|one| one.job.clone()).collect()).await?;
    let events: BTreeSet<&str> = left.iter().map(|one| one.event_id.as_str()).collect();
    let events: Vec<&str> = events.into_iter().collect();
    let mut letters = HashMap::new();
    for letter in dead_letters(pool, listener, &events).await? {
        if !letter.is_replay_request() {
            let name = |letter: &StoredLetter| {
                let (observer, action) = (letter.observer.clone(), letter.action.clone());
                (letter.event_id.clone(), observer, action)
            };
            letters.insert(name(&letter), letter);
        }
    }
    let letter_of = |one: &WantedDelivery| {
        let (observer, action) = (one.observer.clone(), one.action.clone());
        letters.get(&(one.event_id.clone(), observer, action))
    };
    let neither = left
        .iter()
        .filter(|one| !jobs.contains_key(&one.job) && letter_of(one).is_none());
    let again = self::jobs(queue, neither.map(|one| one.job.clone()).collect()).await?;
    jobs.extend(again);
    let found = wanted.iter().map(|one| {
        if !is_left(&one) {
            return Whereabouts::Pending;
        }
        let letter = letter_of(one).cloned().map(Whereabouts::DeadLetter);
        let job = || jobs.get(&one.job).cloned().map(Box::new);
        letter
            .or_else(|| job().map(Whereabouts::Job))
            .unwrap_or(Whereabouts::Over)
    });
    Ok(found.collect())
}

async fn jobs(
    queue: &dyn JobQueue,
    ids: Vec<String>,
) -> Result<HashMap<String, JobView>, OutcomeError> {
    if ids.is_empty() {
        return Ok(HashMap::new());
    }
    let found = queue.find(&ids).await?;
    Ok(found.into_iter().map(|job| (job.id.clone(), job)).collect())
}

/// Returns how far a listener is with events, by their ids in the log.
pub async fn standings(
    pool: &PgPool,
    listener: &str,
    events: &[EventPlace],
) -> Result<HashMap<i64, Standing>, OutcomeError> {
    if events.is_empty() {
        return Ok(HashMap::new());
    }
    let ids: Vec<i64> = events.iter().map(|one| one.log_id).collect();
    let hash = |one: &EventPlace| Some(i32::try_from(one.origin?.0).unwrap_or(i32::MAX));
    let rows = sqlx::query(
        "select w.id, w.xid is not null,
                pg_visible_in_snapshot(w.xid, c.base_snapshot) or w.id = any (c.completed_ids)
                    or (c.window_snapshot is not null and w.id <= c.last_id
                        and pg_visible_in_snapshot(w.xid, c.window_snapshot))
         from (
             select given.id, coalesce(given.hash, found.hash) as hash, coalesce(given.xid::xid8, found.xid) as xid
             from unnest($2::bigint[], $3::integer[], $4::text[]) as given(id, hash, xid)
             left join lateral (
                 select l.hash, l.xid from observer.change_log l where given.xid is null and l.id = given.id limit 1
             ) found on true
         ) w
         left join observer.checkpoint c on c.listener = $1 and c.shard = w.hash % c.shards",
    )
    .bind(listener)
    .bind(&ids)
    .bind(events.iter().map(hash).collect::<Vec<_>>())
    .bind(events.iter().map(|one| Some(one.origin?.1.to_string())).collect::<Vec<_>>())
    .fetch_all(pool)
    .await?;
    let mut standings = HashMap::new();
    for row in &rows {
        let progress = match row.try_get::<Option<bool>, _>(2)? {
            None => EventProgress::NotStarted,
            Some(true) => EventProgress::Passed,
            Some(false) => EventProgress::Ahead,
        };
        let standing = Standing {
            progress,
            is_known: row.try_get(1)?,
            done: Vec::new(),
        };
        standings.insert(row.try_get::<i64, _>(0)?, standing);
    }
    let is_ahead = |one: &Standing| one.progress == EventProgress::Ahead;
    if standings.values().any(is_ahead) {
        add_done_actions(pool, listener, &ids, &mut standings).await?;
    }
    Ok(standings)
}

async fn add_done_actions(
    pool: &PgPool,
    listener: &str,
    ids: &[i64],
    standings: &mut HashMap<i64, Standing>,
) -> Result<(), OutcomeError> {
    let rows = sqlx::query(
        "select (done.value->>0)::bigint, done.value->>1, done.value->>2
         from observer.checkpoint c, json_array_elements(c.partially_completed) done
         where c.listener = $1 and (done.value->>0)::bigint = any ($2)",
    )
    .bind(listener)
    .bind(ids)
    .fetch_all(pool)
    .await?;
    for row in &rows {
        if let Some(standing) = standings.get_mut(&row.try_get(0)?) {
            standing.done.push((row.try_get(1)?, row.try_get(2)?));
        }
    }
    Ok(())
}

/// Returns the dead letters of events, by the ids of these.
pub async fn dead_letters(
    pool: &PgPool,
    listener: &str,
    events: &[&str],
) -> Result<Vec<StoredLetter>, OutcomeError> {
    if events.is_empty() {
        return Ok(Vec::new());
    }
    let rows = sqlx::query(
        "select id, event_id, observer, action, attempts, error_kind, error, history::text,
                redrive_requested_at is not null
         from observer.dead_letter where listener = $1 and event_id = any ($2)",
    )
    .bind(listener)
    .bind(events)
    .fetch_all(pool)
    .await?;
    let read = |row: &sqlx::postgres::PgRow| -> Result<StoredLetter, OutcomeError> {
        Ok(StoredLetter {
            id: row.try_get(0)?,
            event_id: row.try_get(1)?,
            observer: row.try_get(2)?,
            action: row.try_get(3)?,
            attempts: row.try_get::<i32, _>(4)?.unsigned_abs(),
            error_kind: row.try_get(5)?,
            error: row.try_get(6)?,
            history: RawValue::from_string(row.try_get(7)?)?,
            redrive_requested: row.try_get(8)?,
        })
    };
    rows.iter().map(read).collect()
}
