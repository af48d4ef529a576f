//! The work itself: takes part in the listener's fleet, and reads, dispatches and saves for the
//! shards that are this process's.
//!
//! One reader, one dispatcher and one writer serve all shards; shards come and go while the others
//! are worked on. A process takes part only while its database is there: what it cannot work on
//! is better left to others.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use chrono::Utc;
use crds::config::ListenerConfig;
use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use lease::membership::ShardLease;
use sqlx::PgPool;
use tokio::sync::{Mutex, Notify, mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use uuid::Uuid;

pub use super::job_worker::Jobs;
use super::job_worker::Working;

use super::error::RunError;
use super::shard_worker::Desk;
use super::standalone::{GOODBYE, first_error};
use super::startup_log;
use super::tracking_watch;
use crate::capture::change_log::{ChangeLog, LogError};
use crate::capture::poll_loop::poll_loop;
use crate::capture::reader::{Assignment, LogReader, ReaderIdentity};
use crate::capture::retention;
use crate::checkpoint;
use crate::coordination::heartbeat::{Heartbeat, NewerConfig};
use crate::coordination::membership::{Coordination, Fleet, Member};
use crate::coordination::unclaimed_shards::Waiting;
use crate::database::{self, Access};
use crate::dead_letters::retention as dead_letter_retention;
use crate::dispatch::{CheckpointWriter, DispatchError, Dispatcher, DispatcherConfig};
use crate::jobs::backend::{Place, PlaceError};
use crate::jobs::metrics;
use crate::migrate;
use crate::observers::Observers;
use crate::observers::circuit_metrics::Receivers;
use crate::server::Sources;

/// Pages read ahead of dispatch.
const PAGES_AHEAD: usize = 1;

/// After this long without the database the shards are left to others.
const AWAY: Duration = Duration::from_secs(15);

/// How long a server may take to answer that it is there.
pub(super) const PROBE: Duration = Duration::from_secs(2);

/// After this long without an answer it is looked for why there is none.
const UNSURE: Duration = Duration::from_secs(2);

/// How often things are looked after that nobody tells of.
pub(super) const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Between two tries to begin again after the server has recovered.
const RECOVERY_PAUSE: Duration = Duration::from_millis(250);

/// What is to be done.
#[derive(Debug)]
pub(crate) struct Job<'a> {
    /// The listener.
    pub(crate) listener: &'a ListenerConfig,
    /// This process.
    pub(crate) member: &'a Member,
    /// Where it finds the others.
    pub(crate) coordination: &'a Coordination,
    /// The observers, and whatever comes in their place.
    pub(crate) observers: watch::Receiver<Arc<Observers>>,
    /// Who is told.
    pub(crate) sources: &'a Sources,
    /// How long a server that refuses connections is given to start.
    pub(crate) patience: Duration,
    /// Whether it works on jobs.
    pub(crate) jobs: Jobs,
    /// What was told of tables that are not tracked.
    pub(crate) told: tracking_watch::Told,
}

/// What there is of a database that can be worked with.
struct Ground {
    pool: PgPool,
    log: ChangeLog,
    life: Uuid,
    place: Place,
}

impl Ground {
    async fn find(job: &Job<'_>) -> Result<Self, RunError> {
        let listener = job.listener;
        let pool = database::connect(&listener.database_url, job.patience, Access::Write).await?;
        migrate::verify(&pool).await?;
        let log = ChangeLog::open(pool.clone()).await?;
        let life = checkpoint::server_incarnation(&pool).await?;
        // One that has never run misses nothing from now on, whoever works on it and when.
        let (name, shards, start) = (listener.identity(), listener.shards, listener.start_at);
        if checkpoint::initialize(&pool, &log, &name, shards, start).await? {
            startup_log::tell_first(&pool, &name, start).await;
        }
        let place = Place::open(listener, pool.clone()).await?;
        place.tell_durability();
        Ok(Self {
            pool,
            log,
            life,
            place,
        })
    }

    /// Finds it again in the server's new life.
    async fn find_again(job: &Job<'_>) -> Result<Self, RunError> {
        let deadline = Instant::now() + AWAY;
        loop {
            match Self::find(job).await {
                Err(error) if error.is_outage() && Instant::now() < deadline => {
                    job.sources.health.read(false, Instant::now());
                    tracing::warn!(%error, "cannot go on yet; trying again");
                    tokio::time::sleep(RECOVERY_PAUSE).await;
                }
                other => return other,
            }
        }
    }
}

/// Takes part until `stop`, or until there is a reason not to. Whatever was not saved is then
/// forgotten, so that it can be begun anew from the checkpoints.
pub(crate) async fn tend(job: &Job<'_>, stop: &CancellationToken) -> Result<(), RunError> {
    let mut ground = tokio::select! {
        found = Ground::find(job) => found?,
        () = stop.cancelled() => return Ok(()),
    };
    if let Some(newer) = job
        .heartbeat(&ground.pool)
        .beat()
        .await
        .map_err(LogError::Database)?
    {
        return Err(newer.into());
    }
    let metrics = &job.sources.metrics;
    let _open = job.sources.keeper.open(job.listener, &ground.place.queue)?;
    let _told = metrics.register_circuits(Receivers::new(job.observers.clone())?)?;
    if job.jobs == Jobs::Only {
        return job.work_on_jobs(&ground.pool, &ground.place, stop).await;
    }
    let mut fleet = Fleet::join(job.listener, job.member, job.coordination, metrics)?;
    job.sources.health.started();
    job.sources.reporter.takes_part();
    let (name, shards) = (job.listener.identity(), job.listener.shards);
    let (member, actions) = (job.member.name.as_str(), job.observers.borrow().len());
    tracing::info!(listener = name, shards, actions, member, "running");
    let mut holds = BTreeMap::new();
    let working = Working::begin(job, stop).await?;
    let result = loop {
        match Engine::start(job, &ground, &working.added)
            .run(&mut fleet, &mut holds, stop)
            .await
        {
            Err(error) if error.is_new_life() && !stop.is_cancelled() => {
                tracing::warn!(
                    listener = name,
                    "{error}: going on from the last checkpoint"
                );
                match Ground::find_again(job).await {
                    Ok(found) if !found.place.is_same_backend(&ground.place) => {
                        let switched = PlaceError::Switched(found.place.queue.backend());
                        break Err(RunError::from(switched));
                    }
                    Ok(found) => ground = found,
                    Err(error) => break Err(error),
                }
            }
            other => break other,
        }
    };
    for shard in holds.keys() {
        job.sources.reporter.let_go(*shard);
    }
    let is_urgent = !matches!(
        result,
        Ok(()) | Err(RunError::ConfigOutdated { .. } | RunError::Queue(PlaceError::Switched(_)))
    );
    working.end(is_urgent).await;
    holds.clear();
    metrics.shards.set(0);
    fleet.left().await?;
    result
}

/// Everything that works on one ground.
struct Engine<'a> {
    job: &'a Job<'a>,
    desk: Desk<'a>,
    dispatching: AbortOnDropHandle<Result<(), DispatchError>>,
    tasks: JoinSet<Result<(), RunError>>,
    reading: CancellationToken,
    newer: watch::Receiver<Option<NewerConfig>>,
    place: &'a Place,
}

impl<'a> Engine<'a> {
    fn start(job: &'a Job<'a>, ground: &'a Ground, jobs_added: &Arc<Notify>) -> Self {
        let (listener, sources) = (job.listener, job.sources);
        let name: Arc<str> = Arc::from(listener.identity());
        let reading = CancellationToken::new();
        let mut tasks: JoinSet<Result<(), RunError>> = JoinSet::new();
        let owner = ReaderIdentity {
            listener: Arc::clone(&name),
            shards: listener.shards,
            server_incarnation: ground.life,
        };
        let newer = upkeep(job, ground, &name, &reading, &mut tasks);
        let reader = LogReader::new(ground.log.clone(), owner);
        let (assigned, assignment) = watch::channel(Assignment::new());
        let (send, batches) = mpsc::channel(PAGES_AHEAD);
        {
            let until = reading.clone();
            let told = (Arc::clone(&sources.health), sources.metrics.clone());
            let longest_pause = listener.max_poll_interval;
            tasks.spawn(async move {
                Ok(poll_loop(reader, assignment, send, told, longest_pause, until).await?)
            });
        }
        let dispatcher = Dispatcher::new(DispatcherConfig {
            observers: job.observers.clone(),
            shard_count: listener.shards,
            assignment: assigned,
            jobs_added: Arc::clone(jobs_added),
            writer: CheckpointWriter {
                pool: ground.pool.clone(),
                queue: Arc::clone(&ground.place.queue),
                listener: name,
                server_incarnation: ground.life,
                health: Arc::clone(&sources.health),
                metrics: sources.metrics.clone(),
            },
            reporter: Arc::clone(&sources.reporter),
            max_concurrency: usize::try_from(listener.max_concurrency).unwrap_or(usize::MAX),
            checkpoint_interval: listener.checkpoint_interval,
            stalled_after: listener.stalled_after,
        });
        let (commands, asked) = mpsc::channel(usize::from(listener.shards));
        Self {
            dispatching: AbortOnDropHandle::new(tokio::spawn(dispatcher.run(batches, asked))),
            desk: Desk {
                listener,
                pool: &ground.pool,
                log: &ground.log,
                queue: &*ground.place.queue,
                commands,
                sources,
                claiming: Mutex::new(()),
            },
            job,
            tasks,
            reading,
            newer,
            place: &ground.place,
        }
    }

    /// Works on the shards that are held and on those that come, until all are given up.
    async fn run(
        mut self,
        fleet: &mut Fleet,
        holds: &mut BTreeMap<u16, Arc<ShardLease>>,
        stop: &CancellationToken,
    ) -> Result<(), RunError> {
        let result = self.work(fleet, holds, stop).await;
        self.reading.cancel();
        // The dispatcher ends when nobody asks anything of it any more.
        let Self {
            desk,
            mut tasks,
            dispatching,
            ..
        } = self;
        let pool = desk.pool;
        drop(desk);
        let goodbye = async {
            // How it ended is told already, if it has.
            if !dispatching.is_finished() {
                let _ended = dispatching.await;
            }
            while tasks.join_next().await.is_some() {}
            pool.close().await;
        };
        let _in_time = tokio::time::timeout(GOODBYE, goodbye).await;
        result
    }

    async fn work(
        &mut self,
        fleet: &mut Fleet,
        holds: &mut BTreeMap<u16, Arc<ShardLease>>,
        stop: &CancellationToken,
    ) -> Result<(), RunError> {
        let desk = &self.desk;
        let work = |hold: Arc<ShardLease>| async move {
            let shard = hold.shard();
            (shard, desk.work(hold).await)
        };
        let mut at_work: FuturesUnordered<_> = holds.values().cloned().map(work).collect();
        let mut looks = interval(LOOK_EVERY);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut open, mut waiting) = (true, Waiting::default());
        let mut switched = std::pin::pin!(self.place.switched());
        let mut failed = Ok(());
        while open || !at_work.is_empty() {
            tokio::select! {
                hold = fleet.holds.recv(), if open => match hold {
                    Some(hold) => {
                        let hold = Arc::new(hold);
                        holds.insert(hold.shard(), Arc::clone(&hold));
                        at_work.push(work(hold));
                    }
                    None if fleet.is_leaving() => open = false,
                    None => return Err(fleet.broken().await.into()),
                },
                Some((shard, ended)) = at_work.next() => {
                    holds.remove(&shard);
                    if let Err(error) = ended {
                        // The other shards are finished and saved before this is told.
                        failed = failed.and(Err(RunError::from(error)));
                        fleet.leave();
                    }
                }
                ended = &mut self.dispatching => return match ended? {
                    // Why is for the reader itself to say.
                    Err(DispatchError::Reader) => Err(first_error(&mut self.tasks).await),
                    other => other.map_err(RunError::from),
                },
                error = first_error(&mut self.tasks) => return Err(error),
                () = stop.cancelled(), if !fleet.is_leaving() => fleet.leave(),
                newer = newer_config(&mut self.newer), if !fleet.is_leaving() => {
                    // What is in flight is finished and saved before this is told.
                    failed = failed.and(Err(RunError::from(newer)));
                    fleet.leave();
                }
                why = &mut switched, if !fleet.is_leaving() => {
                    failed = failed.and(Err(RunError::from(why)));
                    fleet.leave();
                }
                _ = looks.tick() => {
                    let held = holds.keys().copied();
                    self.job.look(fleet, desk.pool, held, &mut waiting).await?;
                }
            }
        }
        failed
    }
}

/// Begins what goes on beside the work until `reading` ends: figures of the queue, retention of dead
/// letters and of the log, the watch on tables, and heartbeats, which tell of a newer configuration.
fn upkeep(
    job: &Job<'_>,
    ground: &Ground,
    name: &Arc<str>,
    reading: &CancellationToken,
    tasks: &mut JoinSet<Result<(), RunError>>,
) -> watch::Receiver<Option<NewerConfig>> {
    let (listener, sources, pool) = (job.listener, job.sources, &ground.pool);
    let reporter = || Arc::clone(&sources.reporter);
    let telling = metrics::tell(
        Arc::clone(&ground.place.queue),
        reporter(),
        sources.metrics.jobs.clone(),
    );
    let dead_letters = dead_letter_retention::keep(
        pool.clone(),
        Arc::clone(name),
        listener.dead_letter_retention,
        reporter(),
        sources.metrics.clone(),
    );
    let watching = tracking_watch::watch(
        pool.clone(),
        Arc::clone(name),
        job.observers.clone(),
        job.told.clone(),
        reporter(),
    );
    let until = reading.clone();
    tasks.spawn(async move {
        let together = async { tokio::join!(telling, dead_letters, watching) };
        until.run_until_cancelled(together).await;
        Ok(())
    });
    let (found, newer) = watch::channel(None);
    let beating = job.heartbeat(pool).run(found, reading.clone());
    let metrics = sources.metrics.clone();
    let retained =
        retention::run_retention(pool.clone(), listener.retention, metrics, reading.clone());
    tasks.spawn(async move {
        tokio::join!(beating, retained);
        Ok(())
    });
    newer
}

/// Waits until there is a process with a newer configuration.
async fn newer_config(newer: &mut watch::Receiver<Option<NewerConfig>>) -> NewerConfig {
    if let Ok(found) = newer.wait_for(Option::is_some).await
        && let Some(found) = found.clone()
    {
        return found;
    }
    // Heartbeats have ended, so nobody will say so any more.
    std::future::pending().await
}

impl Job<'_> {
    /// The heartbeats of this process.
    pub(super) fn heartbeat(&self, pool: &PgPool) -> Heartbeat {
        let (listener, observers) = (self.listener.identity(), self.observers.clone());
        Heartbeat::new(
            pool.clone(),
            &listener,
            self.member,
            observers,
            self.coordination,
        )
    }

    /// Sees to what nobody tells of.
    async fn look(
        &self,
        fleet: &Fleet,
        pool: &PgPool,
        held: impl Iterator<Item = u16>,
        waiting: &mut Waiting,
    ) -> Result<(), RunError> {
        let (health, reporter) = (&self.sources.health, &self.sources.reporter);
        let standing = fleet.standing.borrow().clone();
        reporter.members(standing.members);
        let (now, bound) = (Instant::now(), self.listener.stalled_after);
        waiting.note(&standing, held.filter(|shard| !reporter.owns(*shard)), now);
        health.outside(waiting.outside(&standing, now, bound));
        let away = health.database_away(now).unwrap_or_default();
        let longest = away.max(waiting.longest_unclaimed(now));
        if longest >= AWAY.min(bound) && !fleet.is_leaving() {
            self.probe(pool, away).await?;
        } else if away >= UNSURE {
            health.is_blocked(database::trouble(pool).await);
        } else {
            health.is_blocked(None);
        }
        let blocked = health.blocked();
        let late = waiting.stalled(&standing, blocked.as_deref(), now, bound, Utc::now());
        reporter.stalled_before_work(late);
        self.sources.tell_stalls();
        Ok(())
    }

    /// Finds out whether the database is there, and what keeps it from answering. `away` is for how
    /// long it has not answered.
    async fn probe(&self, pool: &PgPool, away: Duration) -> Result<(), RunError> {
        // A server that answers is there, whatever it is that waits.
        let asked = tokio::time::timeout(PROBE, database::blocker(pool)).await;
        if let Ok(Ok(blocker)) = asked {
            self.sources.health.is_blocked(blocker);
            return Ok(());
        }
        let trouble = database::trouble(pool).await;
        self.sources.health.is_blocked(trouble.clone());
        if away < AWAY {
            return Ok(());
        }
        Err(RunError::Away(match (trouble, asked) {
            (Some(trouble), _) => trouble,
            (None, Ok(Err(error))) => error.to_string(),
            (None, _) => format!("no answer for {} s", away.as_secs()),
        }))
    }
}
