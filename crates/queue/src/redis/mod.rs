//! Jobs in Redis, in streams; also in what speaks its language and has its streams and scripts.
//! Redis 7 or later, one server (a primary with replicas behind one address will do; cluster
//! redirections are not followed, though all keys of a listener lie in one slot).
//!
//! # What is kept where
//! All keys begin with `observers:{<listener>}:`.
//!
//! A hash for each job (`job:<place>`) says all about it. The place is its number in the order of
//! enqueueing; each lane is a sorted set of places (`lane:...`). Of a lane only the first is
//! ready, delayed or claimed, with those of its run claimed too. What is ready lies in a stream for
//! each priority, action and tenant (`ready:...`), which workers read by the consumer group
//! `workers`; actions take turns (`acts:...`), and so do the tenants within each (`turns:...`).
//! What is delayed lies in one sorted set, by when it is due.
//!
//! Every step is one script, and so happens whole or not at all. Time is the server's alone.
//!
//! A claim deletes the entries that it reads: who holds a job, and for which claim of it, is
//! written in its hash, within the same script, and a worker's lease covers all that it holds. So
//! entries need no list of those pending, a stream holds what is ready and nothing else, one that
//! runs empty goes, and nothing grows with history. It also follows that streams and groups may be
//! lost: a group that is gone is made anew before the first entry of its stream, and streams are
//! filled again from the hashes.
//!
//! # What is lost with the server
//! Redis answers before it is safe, unless it is told otherwise. A job that was acknowledged and
//! then lost with the server is lost: the checkpoint has passed its event. With `appendonly no`
//! that is all since the last snapshot; with `appendfsync everysec` about the last second, at most
//! two; with `appendfsync no` what the system had not written yet. With `appendonly yes` and
//! `appendfsync always` **nothing is lost** by a crash of the server or of its machine, as long as
//! its disk is not. A failover to a replica loses what had not reached that one, whatever
//! the setting. [`RedisQueue::durability`] tells what the server says of itself.
//!
//! What is lost the other way round, the end of a job that took effect, has it attempted again,
//! with the same id.
//!
//! # What is bounded
//! A claim whose answer is not read is given back before the next one. An id is remembered for
//! [`REMEMBERED`] after its job ended, but of [`MOST_REMEMBERED`] of them only: within that, a
//! delivery is added once. The server must not evict keys (`maxmemory-policy noeviction`): when it
//! is full it refuses new jobs, and the listener waits with its checkpoints.

mod claim;
mod doubt;
mod durability;
mod enqueue;
mod finish;
mod keep;
mod read;
mod scripts;
mod select;
mod server;

use async_trait::async_trait;
use sqlx::{PgConnection, PgPool};
use std::time::Duration;

pub use durability::Durability;

use crate::{
    ActionLanes, Alive, BackendKind, Burial, Claim, Ended, Figures, First, JobQueue, Keeping, Kept,
    Lane, NewJob, QueueError, Run, Selection, Shown, Want, WorkerId,
};
use doubt::Doubts;
use server::Server;

/// For how long an id is known after its job ended.
pub const REMEMBERED: Duration = Duration::from_hours(1);

/// Most ids that are known of jobs that ended, the latest ones.
pub const MOST_REMEMBERED: usize = 250_000;

/// Most finished jobs that are kept, the latest ones, however long they are to be kept.
pub const MOST_FINISHED: usize = 100_000;

/// The jobs of one listener in Redis.
#[derive(Debug)]
pub struct RedisQueue {
    server: Server,
    pool: PgPool,
    keeping: Keeping,
    durability: Durability,
    doubts: Doubts,
}

/// Why a Redis server is not used. All but the first may be tried again.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The address cannot be understood; it is not repeated, since it may hold a password.
    #[error("the address of Redis cannot be used: {0}")]
    Address(String),
    /// It does not answer as it should.
    #[error("Redis cannot be asked how it is set up: {0}")]
    Redis(#[from] ::redis::RedisError),
    /// It may drop jobs when its memory is full.
    #[error(
        "Redis drops keys when its memory is full (maxmemory-policy {0}), and jobs with them: set maxmemory-policy noeviction"
    )]
    Evicts(String),
}

impl RedisQueue {
    /// The queue of a listener, `namespace/name`, on the server of a URL (`redis://` or `rediss://`).
    /// Dead letters are written by the pool, in transactions of their own.
    ///
    /// Every call to the queue ends within [`Self::LONGEST_CALL`], whatever the server does; and once
    /// it is back, calls go on by themselves.
    pub async fn open(
        url: &str,
        listener: &str,
        pool: PgPool,
        keeping: Keeping,
    ) -> Result<Self, OpenError> {
        let server = Server::open(url, listener)?;
        let durability = durability::read(&server).await?;
        Ok(Self {
            server,
            pool,
            keeping,
            durability,
            doubts: Doubts::default(),
        })
    }

    /// What was acknowledged is lost with the server to the extent that this says, as it was set up
    /// when the queue was opened.
    #[must_use]
    pub fn durability(&self) -> Durability {
        self.durability
    }
}

#[async_trait]
impl JobQueue for RedisQueue {
    fn backend(&self) -> BackendKind {
        BackendKind::Redis
    }

    async fn enqueue(&self, _: &mut PgConnection, jobs: &[NewJob]) -> Result<(), QueueError> {
        self.add(jobs).await
    }

    async fn claim(&self, worker: WorkerId, want: &Want) -> Result<Vec<Run>, QueueError> {
        self.take(worker, want).await
    }

    async fn finish(
        &self,
        worker: WorkerId,
        ended: &[Ended],
        burial: &dyn Burial,
    ) -> Result<Vec<Claim>, QueueError> {
        self.end(worker, ended, burial).await
    }

    async fn register(&self, worker: WorkerId, name: &str) -> Result<(), QueueError> {
        self.welcome(worker, name).await
    }

    async fn alive(&self, worker: WorkerId) -> Result<Alive, QueueError> {
        self.renew(worker).await
    }

    async fn leave(&self, worker: WorkerId) -> Result<(), QueueError> {
        self.farewell(worker).await
    }

    async fn keep(&self) -> Result<Kept, QueueError> {
        self.tidy().await
    }

    async fn firsts(&self, lanes: &[Lane]) -> Result<Vec<Option<First>>, QueueError> {
        self.first_of(lanes).await
    }

    async fn lanes(
        &self,
        shards: &[u16],
        of: u16,
        most: usize,
    ) -> Result<Vec<ActionLanes>, QueueError> {
        self.lanes_of(shards, of, most).await
    }

    async fn figures(&self) -> Result<Vec<(String, Figures)>, QueueError> {
        self.count().await
    }

    async fn list(&self, what: &Selection, most: usize) -> Result<(Vec<Shown>, u64), QueueError> {
        self.selected(what, most).await
    }

    async fn show(&self, id: &str) -> Result<Option<Shown>, QueueError> {
        self.one(id).await
    }

    async fn retry(&self, what: &Selection) -> Result<u64, QueueError> {
        self.each(select::RETRY, what).await
    }

    async fn cancel(&self, what: &Selection) -> Result<u64, QueueError> {
        self.each(select::CANCEL, what).await
    }

    async fn is_empty(&self) -> Result<bool, QueueError> {
        let pending: u64 = self.server.ask("ZCARD", "pending").await?;
        Ok(pending == 0)
    }
}
