//! A listener without a cluster: it runs what files say until it is asked to stop, and shares the
//! work with other processes that run the same listener against the same database.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use crds::config::ListenerConfig;
use crds::pod_status::PodProblem;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

pub use super::error::RunError;
pub use super::session::Jobs;
use super::session::{Job, tend};
use super::startup_log;
use crate::coordination::membership::{Coordination, Member};
use crate::database::{START_PATIENCE, trouble_at};
use crate::observers::Observers;
use crate::runtime::tracking_watch::Told;
use crate::server::{self, AppState};
use crate::telemetry::metrics::Metrics;

/// Between two tries to go on after the database was away.
const OUTAGE_PAUSE: Duration = Duration::from_secs(1);

/// Between two looks whether a process that stands by may take part again.
const STANDBY_PAUSE: Duration = Duration::from_secs(2);

/// What a run needs besides the listener's configuration.
#[derive(Debug)]
pub struct Options {
    /// Where to answer `/healthz`, `/readyz` and `/metrics`; nowhere if absent.
    pub listen: Option<SocketAddr>,
    /// Names this start of this process; unlike any other.
    pub member: Member,
    /// Whether it works on jobs.
    pub jobs: Jobs,
    /// Metrics that the caller watches as well; the run has its own if absent.
    pub metrics: Option<Metrics>,
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
    let sources = AppState::new(metrics, options.member.name.as_str());
    let mut tasks: JoinSet<Result<(), RunError>> = JoinSet::new();
    let done = CancellationToken::new();
    if let Some(at) = options.listen {
        answer(at, &mut tasks, &sources, &done).await?;
    }
    tasks.spawn(note_stop(stop.clone(), done.clone(), sources.clone()));
    let job = Job {
        listener,
        member: &options.member,
        coordination: &Coordination::Database,
        observers,
        sources: &sources,
        patience: START_PATIENCE,
        jobs: options.jobs,
        told: Told::default(),
    };
    startup_log::tell(listener, &job.observers.borrow());
    let tending = async {
        let deadline = Instant::now() + START_PATIENCE;
        let mut standing_by = None;
        loop {
            let tended = match tend(&job, &stop).await {
                // The pool does not know why no connection came.
                Err(error) if error.is_late() && !stop.is_cancelled() => {
                    let why = trouble_at(&listener.database_url).await;
                    Err(why.map_or(error, RunError::Database))
                }
                tended => tended,
            };
            match tended {
                // One that was there comes back; a first try that fails says what is wrong, unless
                // the server was only slow.
                Err(error)
                    if (sources.health.has_begun()
                        || error.is_late() && Instant::now() < deadline)
                        && error.is_outage()
                        && !stop.is_cancelled() =>
                {
                    sources.health.read(false, Instant::now());
                    if sources.health.has_begun() {
                        sources.health.left_unsaved();
                    }
                    if let RunError::Database(why) = &error {
                        sources.health.is_blocked(Some(why.to_string()));
                    }
                    tracing::warn!(listener = &*name, %error, "cannot go on yet; trying again");
                    stop.run_until_cancelled(tokio::time::sleep(OUTAGE_PAUSE))
                        .await;
                }
                Err(error @ RunError::ConfigOutdated { .. }) if !stop.is_cancelled() => {
                    stand_by(&error, &name, &sources, &mut standing_by);
                    stop.run_until_cancelled(tokio::time::sleep(STANDBY_PAUSE))
                        .await;
                }
                Err(error) if error.is_queue_switch() && !stop.is_cancelled() => {
                    tracing::info!(listener = &*name, "{error}; opening it again");
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
    if result.is_ok() && sources.health.has_left_unsaved() {
        tracing::warn!(
            listener = &*name,
            "stopped; not all that was finished could be saved, and what was not is done again by the next start"
        );
    } else if result.is_ok() {
        tracing::info!(listener = &*name, "stopped; all that was finished is saved");
    }
    result
}

/// Logs that this process stands by, and why, once for each reason.
fn stand_by(why: &RunError, listener: &str, sources: &AppState, logged: &mut Option<String>) {
    let message = why.to_string();
    sources.health.cannot_start(PodProblem {
        reason: "ConfigOutdated".to_owned(),
        message: message.clone(),
    });
    if logged.as_ref() != Some(&message) {
        tracing::warn!(listener, "{message}");
        *logged = Some(message);
    }
}

/// Answers on an address, from now on.
pub(crate) async fn answer(
    at: SocketAddr,
    tasks: &mut JoinSet<Result<(), RunError>>,
    sources: &AppState,
    done: &CancellationToken,
) -> Result<(), RunError> {
    let failed = move |source| RunError::Listen { at, source };
    let socket = TcpListener::bind(at).await.map_err(failed)?;
    // A port 0 was chosen by the system.
    let at = socket.local_addr().unwrap_or(at);
    tracing::info!(
        metrics = format!("http://{at}/metrics"),
        "answering /healthz, /readyz, /status and /metrics"
    );
    let (sources, done) = (sources.clone(), done.clone());
    tasks.spawn(async move { server::serve(socket, sources, done).await.map_err(failed) });
    Ok(())
}

/// Tells the prober of a stop, so that no work is expected any more.
pub(crate) async fn note_stop(
    stop: CancellationToken,
    done: CancellationToken,
    sources: AppState,
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
