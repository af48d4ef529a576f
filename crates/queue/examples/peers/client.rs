//! What the harness asks for.

use std::sync::Arc;
use std::time::{Duration, Instant};

use observer_queue::postgres::PostgresQueue;
use observer_queue::sql_transaction::begin;
use observer_queue::{JobQueue, NewJob, QueueConfig};
use serde_json::{Value, json};
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{AssertSqlSafe, Executor as _, PgPool};
use testkit::database::schema_sql;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::Failure;
use super::make::{Seen, job};
use super::work::{AS_IN_THE_LISTENER, NEAR, Setting, Working};

const LISTENER: &str = "shop/main";

/// Connections, made when they are needed.
const CONNECTIONS: u32 = 8;

const LEASE: Duration = Duration::from_secs(15);

/// How long finished jobs are kept by those who keep any.
const RETENTION: Duration = Duration::from_hours(24);

/// Lanes where jobs share them.
const LANES: u32 = 1000;

/// How long after the last job was added it may take until all are done.
const PATIENCE: Duration = Duration::from_secs(30);

/// A line of the harness.
#[derive(serde::Deserialize)]
#[serde(tag = "do", rename_all = "camelCase")]
pub(crate) enum Command {
    /// Makes the tables.
    Setup,
    /// Adds jobs, so many in a transaction.
    Insert {
        /// How many in all.
        jobs: u32,
        /// How many at once.
        batch: u32,
    },
    /// Works off what is there, for `most` seconds at most.
    Drain {
        /// How many there are.
        jobs: usize,
        /// Seconds.
        most: f64,
    },
    /// Adds jobs one by one at a rate, and works on them.
    Steady {
        /// Jobs a second.
        rate: u32,
        /// Seconds.
        seconds: u32,
        /// Whether the worker is not told of them, as is one in another pod.
        #[serde(default)]
        apart: bool,
    },
    /// Ends.
    Quit,
}

/// The queue, and what is asked of it.
pub(crate) struct Client {
    pool: PgPool,
    queue: Arc<dyn JobQueue>,
    setting: Setting,
    /// Number of the next job.
    next: u32,
    /// Lanes that jobs share; each has its own where there are none.
    lanes: Option<u32>,
}

impl Client {
    /// In the database of that URL, with a setting of that name.
    pub(crate) fn new(url: &str, name: &str) -> Result<Self, Failure> {
        let options: PgConnectOptions = url.parse()?;
        let pool = PgPoolOptions::new()
            .max_connections(CONNECTIONS)
            // As in the listener.
            .test_before_acquire(false)
            .connect_lazy_with(options);
        let as_it_comes = Setting {
            workers: 1,
            concurrency: 16,
            most_ahead: 512,
            told_at_once: 1024,
            pauses: AS_IN_THE_LISTENER,
        };
        let larger = Setting {
            workers: 2,
            concurrency: 64,
            most_ahead: 1024,
            told_at_once: 2048,
            pauses: AS_IN_THE_LISTENER,
        };
        let near = Setting {
            pauses: NEAR,
            ..as_it_comes
        };
        let (setting, retention, lanes) = match name {
            "default" => (as_it_comes, Duration::ZERO, None),
            "near" => (near, Duration::ZERO, None),
            "batched" => (larger, Duration::ZERO, None),
            "ordered" => (as_it_comes, Duration::ZERO, Some(LANES)),
            "kept" => (as_it_comes, RETENTION, None),
            "kept-batched" => (larger, RETENTION, None),
            other => return Err(format!("there is no setting {other}").into()),
        };
        let config = QueueConfig {
            lease: LEASE,
            retention,
        };
        Ok(Self {
            queue: Arc::new(PostgresQueue::new(pool.clone(), LISTENER, config)),
            pool,
            setting,
            next: 0,
            lanes,
        })
    }

    /// Does as it is told.
    pub(crate) async fn obey(&mut self, command: Command) -> Result<Value, Failure> {
        match command {
            Command::Setup => self.setup().await,
            Command::Insert { jobs, batch } => self.insert(jobs, batch).await,
            Command::Drain { jobs, most } => {
                self.drain(jobs, Duration::try_from_secs_f64(most)?).await
            }
            Command::Steady {
                rate,
                seconds,
                apart,
            } => self.steady(rate, seconds, apart).await,
            Command::Quit => {
                self.pool.close().await;
                Ok(json!({}))
            }
        }
    }

    async fn setup(&self) -> Result<Value, Failure> {
        let there = "select to_regclass('observer.job') is not null";
        let there: bool = sqlx::query_scalar(there).fetch_one(&self.pool).await?;
        if !there {
            self.pool.execute(AssertSqlSafe(schema_sql())).await?;
        }
        Ok(json!({}))
    }

    fn job(&mut self) -> Result<NewJob, Failure> {
        let number = self.next;
        self.next += 1;
        job(number, self.lanes.map_or(number, |lanes| number % lanes))
    }

    async fn insert(&mut self, jobs: u32, batch: u32) -> Result<Value, Failure> {
        let begun = Instant::now();
        let mut left = jobs;
        while left > 0 {
            let many = left.min(batch);
            left -= many;
            let new: Vec<NewJob> = (0..many).map(|_| self.job()).collect::<Result<_, _>>()?;
            add(&self.pool, &*self.queue, &new).await?;
        }
        Ok(json!({"jobs": jobs, "seconds": begun.elapsed().as_secs_f64()}))
    }

    async fn begin(&self, seen: &Arc<Seen>, added: &Arc<Notify>) -> Result<Working, Failure> {
        let (queue, seen, added) = (Arc::clone(&self.queue), Arc::clone(seen), Arc::clone(added));
        Working::begin(queue, self.setting, LEASE, seen, added).await
    }

    async fn drain(&self, jobs: usize, most: Duration) -> Result<Value, Failure> {
        let begun = Instant::now();
        let seen = Arc::default();
        let mut working = self.begin(&seen, &Arc::default()).await?;
        let all = done(&mut working, jobs, most).await;
        let seconds = begun.elapsed().as_secs_f64();
        let jobs = *working.done.borrow();
        working.end().await?;
        Ok(json!({"jobs": jobs, "seconds": seconds, "all": all}))
    }

    async fn steady(&mut self, rate: u32, seconds: u32, apart: bool) -> Result<Value, Failure> {
        let (seen, added) = (Arc::default(), Arc::new(Notify::new()));
        let mut working = self.begin(&seen, &added).await?;
        // As the others do.
        sleep(Duration::from_millis(500)).await;
        let total = rate * seconds;
        let begun = Instant::now();
        let mut adding = JoinSet::new();
        for number in 0..total {
            let due = Duration::from_secs(1) * number / rate;
            sleep(due.saturating_sub(begun.elapsed())).await;
            let new = self.job()?;
            let (pool, queue) = (self.pool.clone(), Arc::clone(&self.queue));
            let added = (!apart).then(|| Arc::clone(&added));
            adding.spawn(async move {
                add(&pool, &*queue, &[new]).await?;
                if let Some(added) = added {
                    added.notify_one();
                }
                Ok::<_, Failure>(())
            });
        }
        while let Some(ended) = adding.join_next().await {
            ended??;
        }
        let jobs = usize::try_from(total)?;
        let all = done(&mut working, jobs, PATIENCE).await;
        let took = begun.elapsed().as_secs_f64();
        working.end().await?;
        let sorted = seen.sorted();
        let last = sorted.len().checked_sub(1).ok_or("no job has begun")?;
        let at = |part: usize| sorted[(sorted.len() * part / 100).min(last)];
        Ok(json!({
            "jobs": jobs, "seconds": took, "all": all,
            "p50": at(50), "p99": at(99), "max": at(100),
        }))
    }
}

/// In a transaction, as the dispatcher adds them.
async fn add(pool: &PgPool, queue: &dyn JobQueue, jobs: &[NewJob]) -> Result<(), Failure> {
    let mut tx = begin(pool).await?;
    queue.enqueue(&mut tx, jobs).await?;
    tx.commit().await?;
    Ok(())
}

/// Whether so many are done within that time.
async fn done(working: &mut Working, jobs: usize, most: Duration) -> bool {
    let all = working.done.wait_for(|done| *done >= jobs);
    timeout(most, all).await.is_ok_and(|done| done.is_ok())
}
