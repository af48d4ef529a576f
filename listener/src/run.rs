//! One listener at work: claims its shards, and keeps reading, dispatching and saving until it
//! is asked to stop or must not go on.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use chrono::Utc;
use crds::config::ListenerConfig;
use sqlx::PgPool;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::api::{self, Sources};
use crate::checkpoint::{self, CheckpointError, Claim};
use crate::database::{self, DatabaseError, START_PATIENCE};
use crate::dispatch::observers::Observers;
use crate::dispatch::{DispatchError, Dispatcher, Saver, Setup};
use crate::migrate::{self, MigrateError};
use crate::source::follow::follow;
use crate::source::log::{Log, LogError};
use crate::source::reader::{Batch, ReadError, Reader};
use crate::source::retention;
use crate::telemetry::metrics::Metrics;

/// Between two tries to claim the shards again after a crash of the server.
const OUTAGE_PAUSE: Duration = Duration::from_secs(1);

/// Pages read ahead of dispatch.
const PAGES_AHEAD: usize = 1;

/// What a run needs besides the listener's configuration.
#[derive(Debug)]
pub struct Options {
    /// Where to answer `/healthz`, `/readyz` and `/metrics`; nowhere if absent.
    pub listen: Option<SocketAddr>,
    /// Names this start of this process; unlike any other.
    pub holder: String,
    /// Metrics that the caller watches as well; the run has its own if absent.
    pub metrics: Option<Metrics>,
}

/// Why a listener does not run, or ran no longer.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// No connection.
    #[error(transparent)]
    Database(#[from] DatabaseError),
    /// The schema is not as it must be.
    #[error(transparent)]
    Schema(#[from] MigrateError),
    /// The log cannot be opened.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The shards cannot be claimed.
    #[error(transparent)]
    Claim(#[from] CheckpointError),
    /// Reading cannot go on.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// Dispatch cannot go on.
    #[error(transparent)]
    Dispatch(#[from] DispatchError),
    /// Metrics cannot be registered.
    #[error("cannot register the metrics: {0}")]
    Metrics(#[from] prometheus::Error),
    /// The address for health and metrics cannot be used.
    #[error(
        "cannot answer on {at}: {source}. Choose another address with --listen, or `--listen off`"
    )]
    Listen {
        /// The address.
        at: SocketAddr,
        /// The error.
        source: std::io::Error,
    },
    /// A task died.
    #[error("a task died: {0}")]
    Task(#[from] tokio::task::JoinError),
}

impl RunError {
    /// Whether the database could not be asked, so that a later try may succeed.
    const fn is_outage(&self) -> bool {
        matches!(
            self,
            Self::Database(DatabaseError::Unreachable { .. })
                | Self::Claim(
                    CheckpointError::Database(_) | CheckpointError::Log(LogError::Database(_))
                )
                | Self::Log(LogError::Database(_))
                | Self::Schema(MigrateError::Database(_))
        )
    }

    /// Whether the server has begun a new life, in which what was saved is all that counts.
    pub(crate) const fn is_new_life(&self) -> bool {
        matches!(
            self,
            Self::Read(ReadError::NewLife)
                | Self::Dispatch(DispatchError::Checkpoint(CheckpointError::NewLife))
        )
    }
}

/// Runs until `stop`, or until it must not go on. Observers that are sent while it runs take the
/// place of those before; nothing that is under way or waits is lost by that. After a stop nothing is left under way.
pub async fn run(
    listener: &ListenerConfig,
    observers: watch::Receiver<Arc<Observers>>,
    options: Options,
    stop: CancellationToken,
) -> Result<(), RunError> {
    let name: Arc<str> = Arc::from(listener.identity());
    let metrics = options.metrics.map_or_else(|| Metrics::new(&name), Ok)?;
    let sources = Sources::new(metrics, options.holder.as_str());
    let mut tasks: JoinSet<Result<(), RunError>> = JoinSet::new();
    let done = CancellationToken::new();
    if let Some(at) = options.listen {
        answer(at, &mut tasks, &sources, &done).await?;
    }
    tasks.spawn(note_stop(stop.clone(), done.clone(), sources.clone()));
    let job = Job {
        listener,
        holder: &options.holder,
        observers,
        sources: &sources,
        patience: START_PATIENCE,
    };
    let tending = async {
        let mut lost = false;
        loop {
            match tend(&job, &stop).await {
                Err(error) if error.is_new_life() && !stop.is_cancelled() => {
                    tracing::warn!(
                        listener = &*name,
                        "{error}: going on from the last checkpoint"
                    );
                    lost = true;
                }
                // A server that has just crashed may do so again before the shards are claimed.
                Err(error) if lost && error.is_outage() && !stop.is_cancelled() => {
                    sources.health.read(false, Instant::now());
                    tracing::warn!(listener = &*name, %error, "cannot go on yet; trying again");
                    tokio::time::sleep(OUTAGE_PAUSE).await;
                }
                other => return other,
            }
        }
    };
    let result = tokio::select! {
        result = tending => result,
        error = first_error(&mut tasks) => Err(error),
    };
    done.cancel();
    // What is still open then is closed by the end of the process.
    let goodbye = async { while tasks.join_next().await.is_some() {} };
    let _in_time = tokio::time::timeout(GOODBYE, goodbye).await;
    if result.is_ok() {
        tracing::info!(listener = &*name, "stopped; all that was finished is saved");
    }
    result
}

/// What is to be done from a claim on.
#[derive(Debug)]
pub(crate) struct Job<'a> {
    /// The listener.
    pub(crate) listener: &'a ListenerConfig,
    /// Names this process, and nobody else who may claim the shards.
    pub(crate) holder: &'a str,
    /// The observers, and whatever comes in their place.
    pub(crate) observers: watch::Receiver<Arc<Observers>>,
    /// Who is told.
    pub(crate) sources: &'a Sources,
    /// How long a server that refuses connections is given to start.
    pub(crate) patience: Duration,
}

/// Claims the shards and works on them until `stop`, or until they are lost. Whatever was not
/// saved is then forgotten, so that it can be begun anew from the checkpoints.
pub(crate) async fn tend(job: &Job<'_>, stop: &CancellationToken) -> Result<(), RunError> {
    let (listener, sources) = (job.listener, job.sources);
    let (pool, log, claim) = tokio::select! {
        begun = begin(job) => begun?,
        () = stop.cancelled() => return Ok(()),
    };
    note_begin(job, &claim);

    // Ends with the stop already: once the shards are let go, a reader would find them lost.
    let reading = stop.child_token();
    let mut tasks: JoinSet<Result<(), RunError>> = JoinSet::new();
    let batches = read(
        log,
        &claim,
        listener.max_poll_interval,
        &mut tasks,
        sources,
        &reading,
    );
    let metrics = sources.metrics.clone();
    tasks.spawn(retention::keep(
        pool.clone(),
        listener.retention,
        metrics,
        reading.clone(),
    ));
    let dispatcher = Dispatcher::new(Setup {
        observers: job.observers.clone(),
        saver: Saver {
            pool: pool.clone(),
            tenure: claim.tenure.clone(),
            health: Arc::clone(&sources.health),
            metrics: sources.metrics.clone(),
        },
        claim,
        max_in_flight: usize::try_from(listener.max_in_flight).unwrap_or(usize::MAX),
        save_every: listener.checkpoint_interval,
        drain: listener.drain_timeout,
    });
    let result = tokio::select! {
        result = dispatcher.run(batches, stop.clone()) => match result {
            // Why is for the reader itself to say.
            Err(DispatchError::Reader) => Err(first_error(&mut tasks).await),
            other => other.map_err(RunError::from),
        },
        error = first_error(&mut tasks) => Err(error),
    };
    reading.cancel();
    let goodbye = async {
        while tasks.join_next().await.is_some() {}
        pool.close().await;
    };
    let _in_time = tokio::time::timeout(GOODBYE, goodbye).await;
    sources.reporter.let_go();
    result
}

/// Tells that the shards are claimed.
fn note_begin(job: &Job<'_>, claim: &Claim) {
    let name = &*claim.tenure.listener;
    if let Some(from) = &claim.taken_from {
        tracing::info!(
            listener = name,
            from,
            "taking over from a process that runs or was killed"
        );
    }
    let (shards, actions) = (job.listener.shards, job.observers.borrow().len());
    let holder = job.holder;
    tracing::info!(listener = name, shards, actions, holder, "running");
    job.sources.metrics.leader.set(1);
    job.sources.health.started();
    job.sources.reporter.claimed(claim, Utc::now());
}

/// Connects, and claims the shards.
async fn begin(job: &Job<'_>) -> Result<(PgPool, Log, Claim), RunError> {
    let listener = job.listener;
    let pool = database::connect(&listener.database_url, job.patience).await?;
    migrate::verify(&pool).await?;
    let log = Log::open(pool.clone()).await?;
    let (name, holder) = (listener.identity(), job.holder);
    let (shards, start) = (listener.shards, listener.start_at);
    let claim = checkpoint::claim(&pool, &log, &name, holder, shards, start).await?;
    Ok((pool, log, claim))
}

/// Answers on an address, from now on.
pub(crate) async fn answer(
    at: SocketAddr,
    tasks: &mut JoinSet<Result<(), RunError>>,
    sources: &Sources,
    done: &CancellationToken,
) -> Result<(), RunError> {
    let failed = move |source| RunError::Listen { at, source };
    let socket = TcpListener::bind(at).await.map_err(failed)?;
    let (sources, done) = (sources.clone(), done.clone());
    tasks.spawn(async move { api::serve(socket, sources, done).await.map_err(failed) });
    Ok(())
}

/// Reads from where the claim says.
fn read(
    log: Log,
    claim: &Claim,
    longest_pause: Duration,
    tasks: &mut JoinSet<Result<(), RunError>>,
    sources: &Sources,
    until: &CancellationToken,
) -> mpsc::Receiver<Batch> {
    let positions = claim
        .shards
        .iter()
        .map(|shard| shard.progress.position.clone())
        .collect();
    let reader = Reader::new(log, claim.tenure.clone(), positions);
    let (batches, taken) = mpsc::channel(PAGES_AHEAD);
    let (sources, until) = (sources.clone(), until.clone());
    tasks.spawn(async move { Ok(follow(reader, batches, sources, longest_pause, until).await?) });
    taken
}

/// Tells the prober of a stop, so that no work is expected any more.
pub(crate) async fn note_stop(
    stop: CancellationToken,
    done: CancellationToken,
    sources: Sources,
) -> Result<(), RunError> {
    tokio::select! { () = stop.cancelled() => {}, () = done.cancelled() => {} }
    sources.health.stopping();
    sources.reporter.stopping();
    Ok(())
}

/// How long open requests and connections may hold up the end.
pub(crate) const GOODBYE: Duration = Duration::from_millis(500);

/// Waits for a task to fail; those that end well are done.
pub(crate) async fn first_error(tasks: &mut JoinSet<Result<(), RunError>>) -> RunError {
    loop {
        match tasks.join_next().await {
            Some(Ok(Ok(()))) => {}
            Some(Ok(Err(error))) => return error,
            Some(Err(error)) => return error.into(),
            None => std::future::pending().await,
        }
    }
}
