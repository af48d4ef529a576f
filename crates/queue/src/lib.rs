//! Jobs: actions taken off the fast path, either because that is what their observer asks for or
//! because they wait for their next attempt.
//!
//! A job belongs to a *lane*: one action of one observer for one key. Of a lane only the first
//! job may be claimed, together with some of those behind it, which are then worked on one after
//! the other; so order within a lane is kept, whoever works and however many do. A claim is a
//! lease: a worker renews all that it holds by one sign of life, and what it holds is anybody's
//! once the signs stay away for too long. Each claim of a job has a number, and a result that
//! carries an older one is refused.
//!
//! There are two places to keep jobs, behind one trait: [`postgres`] and [`redis`].

pub mod failpoint;
pub mod postgres;
pub mod redis;
mod told;
pub mod transaction;

pub use told::told;

use std::fmt;
use std::time::Duration;

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use sqlx::PgConnection;
use uuid::Uuid;

/// Most jobs of one lane that one claim takes.
pub const MAX_RUN: usize = 16;

/// Most lanes that [`JobQueue::firsts`] is asked about at once.
pub const MAX_ASKED: usize = 1024;

/// Which lane: an action of an observer, and the hash of tenant, entity and key.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Lane {
    /// The observer, `namespace/name`.
    pub observer: std::sync::Arc<str>,
    /// The action's name.
    pub action: std::sync::Arc<str>,
    /// Non-negative hash of tenant, entity and key, from which the shard follows.
    pub hash: u32,
}

/// How soon a job is claimed, before when it is due.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Priority {
    /// Before all others.
    High,
    /// As it comes.
    #[default]
    Normal,
    /// After all others.
    Low,
}

/// What a job is, apart from how it is doing. Never changes.
#[derive(Clone, Debug)]
pub struct Job {
    /// The name of the delivery for ever, and what tells it from its earlier jobs where there
    /// were any; no two jobs of a listener have the same.
    pub id: String,
    /// Its lane.
    pub lane: Lane,
    /// Place of its event in the log. Within a lane, jobs are enqueued in this order.
    pub log_id: i64,
    /// Id of its event.
    pub event_id: String,
    /// The entity.
    pub entity: String,
    /// Key of the event.
    pub key: Option<String>,
    /// Tenant of the event.
    pub tenant: Option<String>,
    /// How soon it is claimed.
    pub priority: Priority,
    /// The event, as JSON of the listener's own making.
    pub event: Box<RawValue>,
}

/// A job to be added.
#[derive(Clone, Debug)]
pub struct NewJob {
    /// What it is.
    pub job: Job,
    /// From now until it may be attempted.
    pub wait: Duration,
    /// Attempts made before.
    pub attempts: u32,
    /// The latest of them: a JSON array, the last one last.
    pub history: Box<RawValue>,
}

/// A job that this worker may work on.
#[derive(Clone, Debug)]
pub struct Claimed {
    /// What it is.
    pub job: Job,
    /// Names this claim of it: its place in the backend, and the claim's number.
    pub claim: Claim,
    /// Attempts made before, those included whose worker was never heard of again.
    pub attempts: u32,
    /// The latest of them that told of themselves: a JSON array, the last one last.
    pub history: Box<RawValue>,
    /// When it was enqueued.
    pub enqueued_at: DateTime<Utc>,
    /// For how long it has been due.
    pub late: Duration,
}

/// Names one claim of one job.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Claim {
    /// The job, as the backend names it.
    pub place: String,
    /// Which claim of it.
    pub number: i64,
}

/// Jobs of one lane under one claim, in the order in which they are to be worked on.
#[derive(Clone, Debug)]
pub struct Run {
    /// Never empty, at most [`MAX_RUN`].
    pub jobs: Vec<Claimed>,
}

/// What came of a claimed job.
#[derive(Clone, Debug)]
pub enum Ending {
    /// It took effect.
    Done,
    /// It is to be attempted again.
    Again {
        /// From now until then.
        wait: Duration,
        /// Attempts made in all.
        attempts: u32,
        /// The latest of them: a JSON array.
        history: Box<RawValue>,
    },
    /// It is given up, and becomes a dead letter by [`Burial`].
    Dead {
        /// Attempts made in all.
        attempts: u32,
        /// The latest of them: a JSON array.
        history: Box<RawValue>,
    },
    /// It was not attempted, and is as it was before the claim; those behind it too.
    Untouched,
}

/// The end of one claim of one job.
#[derive(Clone, Debug)]
pub struct Ended {
    /// What it is.
    pub job: std::sync::Arc<Job>,
    /// Which claim of it.
    pub claim: Claim,
    /// What came of it.
    pub ending: Ending,
    /// When it was enqueued.
    pub enqueued_at: DateTime<Utc>,
}

/// Writes dead letters.
#[async_trait]
pub trait Burial: Send + Sync {
    /// Writes those that are [`Ending::Dead`], within the transaction in which their jobs go where
    /// these are kept in Postgres too. Writing one again changes nothing.
    async fn bury(&self, tx: &mut PgConnection, dead: &[&Ended]) -> Result<(), sqlx::Error>;
}

/// A worker for as long as it is heard of. One that has been away for too long registers anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct WorkerId(pub Uuid);

/// What a worker may take.
#[derive(Clone, Debug)]
pub struct Want {
    /// Most runs.
    pub runs: usize,
    /// No more is claimed once the events of what is claimed have so many bytes; nothing if 0.
    pub bytes: usize,
    /// The actions it knows, with the most jobs of each that may be under way in the whole fleet
    /// (`None`: as many as there are workers). Jobs of others are left for those who know them.
    pub actions: Vec<(std::sync::Arc<str>, std::sync::Arc<str>, Option<u32>)>,
    /// Most jobs under way in the whole fleet (`None`: as many as there are workers).
    pub fleet: Option<u32>,
}

/// What a sign of life is answered with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Alive {
    /// The worker holds what it holds for another lease from when it asked. Those of its claims
    /// that somebody wants cancelled are named.
    Yes {
        /// Claims to cut off; their jobs are gone for good.
        cancelled: Vec<Claim>,
    },
    /// It was away for too long: all that it held is others' now.
    No,
}

/// The lanes of one action that hold jobs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ActionLanes {
    /// The observer, `namespace/name`.
    pub observer: std::sync::Arc<str>,
    /// The action's name.
    pub action: std::sync::Arc<str>,
    /// Hashes of their keys; nothing where there are too many.
    pub hashes: Option<Vec<u32>>,
}

/// The first job of a lane, which others wait behind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct First {
    /// Place of its event in the log.
    pub log_id: i64,
    /// Id of its event.
    pub event_id: String,
    /// Attempts made.
    pub attempts: u32,
    /// The last failure, in words.
    pub error: Option<String>,
}

/// Where a job stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum State {
    /// First of its lane, and nobody works on it: due now or later.
    Ready,
    /// A worker holds it.
    Running,
    /// It waits behind another of its lane.
    Behind,
    /// It is done, and kept for a while.
    Finished,
}

/// A job as it is shown.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Shown {
    /// Its id.
    pub id: String,
    /// Where it stands.
    pub state: State,
    /// The observer, `namespace/name`.
    pub observer: String,
    /// The action's name.
    pub action: String,
    /// Id of its event.
    pub event_id: String,
    /// The entity.
    pub entity: String,
    /// Key of the event.
    pub key: Option<String>,
    /// Tenant of the event.
    pub tenant: Option<String>,
    /// High, Normal or Low.
    pub priority: String,
    /// Attempts made.
    pub attempts: u32,
    /// When it was enqueued.
    pub enqueued_at: DateTime<Utc>,
    /// When it may be attempted; for a finished one, when it ended.
    pub due: DateTime<Utc>,
    /// Who works on it.
    pub worker: Option<String>,
    /// The last failure, in words.
    pub error: Option<String>,
    /// The latest attempts; left out of lists.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub history: Option<Box<RawValue>>,
    /// The event; left out of lists.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub event: Option<Box<RawValue>>,
}

/// Which jobs a command means; all of them where nothing is given.
#[derive(Clone, Debug, Default)]
pub struct Selection {
    /// These ids.
    pub ids: Option<Vec<String>>,
    /// Those of this observer, `namespace/name`.
    pub observer: Option<String>,
    /// Those of this action.
    pub action: Option<String>,
    /// Those in this state.
    pub state: Option<State>,
}

/// How one observer's jobs are doing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Figures {
    /// All that are not over.
    pub pending: u64,
    /// Ready, and their time has come.
    pub due: u64,
    /// Held by workers.
    pub running: u64,
    /// Behind another of their lane.
    pub behind: u64,
    /// Of those pending, how many have had 0, 1, 2 to 3, 4 to 7, and 8 or more attempts.
    pub by_attempts: [u64; 5],
    /// Seconds since the oldest that is pending was enqueued.
    pub oldest_seconds: u64,
}

impl Figures {
    /// Adds those of the same observer elsewhere.
    pub fn add(&mut self, more: &Self) {
        self.pending += more.pending;
        self.due += more.due;
        self.running += more.running;
        self.behind += more.behind;
        for (sum, more) in self.by_attempts.iter_mut().zip(more.by_attempts) {
            *sum += more;
        }
        self.oldest_seconds = self.oldest_seconds.max(more.oldest_seconds);
    }
}

/// How many finished jobs went, and the like.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Kept {
    /// Claims taken from workers that were not heard of for too long.
    pub expired: u64,
}

/// Why a queue does not do as it is asked. All of it may be tried again.
#[derive(Debug, thiserror::Error)]
pub enum QueueError {
    /// Postgres.
    #[error("the database does not do it: {}", told(.0))]
    Postgres(#[from] sqlx::Error),
    /// Redis.
    #[error("Redis does not do it: {0}")]
    Redis(#[from] ::redis::RedisError),
    /// Something in the queue that this program did not put there.
    #[error("a job cannot be read: {0}")]
    Unreadable(String),
    /// No answer in time.
    #[error("it does not answer")]
    NoAnswer,
}

impl QueueError {
    /// Whether a claim that ended so may have taken jobs all the same, which stay taken for as long
    /// as its worker is heard of. (Redis gives back what was taken so before it takes more.)
    #[must_use]
    pub fn may_have_claimed(&self) -> bool {
        use sqlx::Error::{Database, PoolClosed, PoolTimedOut};
        match self {
            // It was refused, or never sent.
            Self::Postgres(Database(_) | PoolClosed | PoolTimedOut) | Self::Redis(_) => false,
            Self::Postgres(_) | Self::Unreadable(_) | Self::NoAnswer => true,
        }
    }
}

/// Kind of backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BackendKind {
    /// Tables of the schema `observer`.
    Postgres,
    /// Streams of a Redis server.
    Redis,
}

impl BackendKind {
    /// Name in the configuration.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Postgres => "Postgres",
            Self::Redis => "Redis",
        }
    }
}

impl fmt::Display for BackendKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Where jobs of one listener are kept.
#[async_trait]
pub trait JobQueue: Send + Sync + fmt::Debug {
    /// Kind of backend.
    fn backend(&self) -> BackendKind;

    /// Adds jobs, each to the end of its lane. Where jobs are kept in Postgres this is part of the
    /// transaction; elsewhere it is done at once, and one that is there, or took effect or was
    /// cancelled not long ago, is not added again.
    async fn enqueue(&self, tx: &mut PgConnection, jobs: &[NewJob]) -> Result<(), QueueError>;

    /// Takes the first jobs of some lanes, with some of those behind them: fair over observers,
    /// actions and tenants, by priority and by when they are due.
    async fn claim(&self, worker: WorkerId, want: &Want) -> Result<Vec<Run>, QueueError>;

    /// Ends claims, and lets the next of their lanes come. Answers with the claims that it refused,
    /// because others have the jobs now or because they are gone.
    async fn finish(
        &self,
        worker: WorkerId,
        ended: &[Ended],
        burial: &dyn Burial,
    ) -> Result<Vec<Claim>, QueueError>;

    /// Makes a worker known under a name for people, for one lease from now on.
    async fn register(&self, worker: WorkerId, name: &str) -> Result<(), QueueError>;

    /// A worker's sign of life.
    async fn alive(&self, worker: WorkerId) -> Result<Alive, QueueError>;

    /// Takes leave: what the worker still holds is anybody's at once, and not counted as an attempt.
    async fn leave(&self, worker: WorkerId) -> Result<(), QueueError>;

    /// Sees to what nobody tells of; to be called about once a second by every worker, which share
    /// it out among themselves. Takes jobs from workers that are not heard of any more, and
    /// whatever else keeps the queue small and fast.
    async fn keep(&self) -> Result<Kept, QueueError>;

    /// The first job of each of these lanes, in the order asked; nothing where a lane holds no job
    /// any more. At most [`MAX_ASKED`].
    async fn firsts(&self, lanes: &[Lane]) -> Result<Vec<Option<First>>, QueueError>;

    /// Lanes of some shards that hold jobs, for each action that has any. A lane is of shard
    /// `hash % of`. Of an action with more than `most` lanes, in these shards or in all, none is named.
    async fn lanes(
        &self,
        shards: &[u16],
        of: u16,
        most: usize,
    ) -> Result<Vec<ActionLanes>, QueueError>;

    /// How the jobs of each observer are doing.
    async fn figures(&self) -> Result<Vec<(String, Figures)>, QueueError>;

    /// The jobs of a selection, the oldest first, and how many there are in all.
    async fn list(&self, what: &Selection, most: usize) -> Result<(Vec<Shown>, u64), QueueError>;

    /// One job in full.
    async fn show(&self, id: &str) -> Result<Option<Shown>, QueueError>;

    /// Makes the ready ones of a selection due at once. Answers with how many were not.
    async fn retry(&self, what: &Selection) -> Result<u64, QueueError>;

    /// Drops jobs for good; those that are under way are cut off at their worker's next sign of
    /// life. Answers with how many.
    async fn cancel(&self, what: &Selection) -> Result<u64, QueueError>;

    /// Whether no job is pending at all.
    async fn is_empty(&self) -> Result<bool, QueueError>;
}

/// What a queue is kept by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keeping {
    /// How long after its last sign of life a worker's claims are anybody's.
    pub lease: Duration,
    /// How long finished jobs are kept to be looked at; zero for not at all.
    pub retention: Duration,
}
