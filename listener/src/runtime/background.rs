//! What runs beside the sessions of a process: its HTTP ports, what is sent over OTLP, and the note of a stop.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::error::RunError;
use super::supervisor::ProcessOptions;
use crate::otlp::{self, LogSending};
use crate::server::{self, AppState, ConsoleLink, HttpApi};
use crate::trace;
use program::logs;

/// How long open requests and connections may delay the end of a process or of a session.
pub(super) const SHUTDOWN_GRACE: Duration = Duration::from_millis(500);

/// Interval of attempts to listen on the address of the HTTP API.
const LISTEN_INTERVAL: Duration = Duration::from_secs(5);

/// Starts to send log lines, if the environment asks for them.
pub(super) fn start_logs(options: &ProcessOptions, sources: &AppState) -> Option<LogSending> {
    let names = (&*options.listener, options.member.name.as_str());
    let started = otlp::start_logs(names, &sources.metrics.process.logs_dropped);
    started.unwrap_or_else(|error| {
        tracing::error!("no log lines are sent: {error}");
        None
    })
}

/// Starts to send traces and metrics, if the environment asks for them. Deliveries never depend on them.
pub(super) fn start_telemetry(
    options: &ProcessOptions,
    sources: &mut AppState,
    done: &CancellationToken,
) -> Vec<AbortOnDropHandle<()>> {
    let (listener, instance) = (&*options.listener, options.member.name.as_str());
    let mut sending = Vec::new();
    match trace::start((listener, instance), &sources.metrics.process.spans_dropped) {
        Ok(Some((spans, sender))) => {
            sources.spans = spans;
            sending.push(tokio::spawn(sender.run(done.clone())));
        }
        Ok(None) => {}
        Err(error) => tracing::error!("no traces are sent: {error}"),
    }
    match otlp::start_metrics(listener, instance) {
        Ok(Some(sender)) => {
            let (registry, sources) = (sources.metrics.registry().clone(), sources.clone());
            let sender = sender.run(registry, move || sources.note_readiness(), done.clone());
            sending.push(tokio::spawn(sender));
        }
        Ok(None) => {}
        Err(error) => tracing::error!("no metrics are sent: {error}"),
    }
    sending.into_iter().map(AbortOnDropHandle::new).collect()
}

/// Serves health checks and metrics on an address until `done`, and the HTTP API too if asked for.
pub(super) async fn serve_http(
    at: SocketAddr,
    with_api: bool,
    tasks: &mut JoinSet<Result<(), RunError>>,
    sources: &AppState,
    done: &CancellationToken,
) -> Result<(), RunError> {
    let failed = move |source| RunError::Listen { at, source };
    let socket = TcpListener::bind(at).await.map_err(failed)?;
    // The system chooses a port for 0.
    let at = socket.local_addr().unwrap_or(at);
    tracing::info!(
        metrics = format!("http://{at}/metrics"),
        "serving /healthz, /readyz, /status and /metrics"
    );
    let (sources, done) = (sources.clone(), done.clone());
    if with_api {
        let (api, mut access) = (sources.api.clone(), sources.api.access());
        let stopped = done.clone().cancelled_owned();
        tasks.spawn(async move {
            tokio::select! {
                Ok(_) = access.wait_for(Option::is_some) => say_console(&api, at),
                () = stopped => {}
            }
            Ok(())
        });
    }
    tasks.spawn(async move {
        server::serve(socket, sources, with_api, done)
            .await
            .map_err(failed)
    });
    Ok(())
}

/// Says where the console is, if there is one. A link that holds a token goes to the terminal alone: logs are
/// kept and sent on.
fn say_console(api: &HttpApi, at: SocketAddr) {
    match api.console_link(at) {
        Some(ConsoleLink::Open(link)) => tracing::info!(console = link, "serving the console"),
        Some(ConsoleLink::LogsIn(link)) => logs::say(&format!("The console is at {link}\n")),
        None => {}
    }
}

/// Serves the HTTP API on an address until `done`, while the listener has one. Deliveries never depend on
/// it: an address that is taken is waited for.
pub(super) async fn serve_api(
    at: SocketAddr,
    api: HttpApi,
    done: CancellationToken,
) -> Result<(), RunError> {
    let mut access = api.access();
    let mut is_reported = false;
    loop {
        tokio::select! {
            found = access.wait_for(Option::is_some) => if found.is_err() { return Ok(()) },
            () = done.cancelled() => return Ok(()),
        }
        let socket = match TcpListener::bind(at).await {
            Ok(socket) => socket,
            Err(error) => {
                if !is_reported {
                    tracing::error!(
                        %error,
                        "cannot serve the HTTP API on {at}, and tries again until it can. Choose another address with \
                         --api-listen, or `--api-listen off`"
                    );
                }
                is_reported = true;
                tokio::select! {
                    () = tokio::time::sleep(LISTEN_INTERVAL) => continue,
                    () = done.cancelled() => return Ok(()),
                }
            }
        };
        is_reported = false;
        // The system chooses a port for 0.
        let at = socket.local_addr().unwrap_or(at);
        tracing::info!(
            api = format!("http://{at}/api/observers"),
            "serving the HTTP API"
        );
        say_console(&api, at);
        let end = done.child_token();
        let _end = end.clone().drop_guard();
        tokio::select! {
            () = server::serve_api(socket, api.clone(), end) => return Ok(()),
            _ = access.wait_for(Option::is_none) => {}
        }
    }
}

/// Makes the process not ready once a stop is requested.
pub(super) async fn mark_stopping(
    stop: CancellationToken,
    done: CancellationToken,
    sources: AppState,
) -> Result<(), RunError> {
    tokio::select! { () = stop.cancelled() => {}, () = done.cancelled() => {} }
    sources.health.stopping();
    sources.reporter.stopping();
    Ok(())
}

/// Waits for a task to fail; tasks that end without an error are ignored.
pub(super) async fn first_error(tasks: &mut JoinSet<Result<(), RunError>>) -> RunError {
    loop {
        match tasks.join_next().await {
            Some(Ok(Ok(()))) => {}
            Some(Ok(Err(error))) => return error,
            Some(Err(error)) => return error.into(),
            None => std::future::pending().await,
        }
    }
}

/// Waits for all tasks to end, for at most [`SHUTDOWN_GRACE`]; the end of the process ends the rest.
pub(super) async fn join_all(tasks: &mut JoinSet<Result<(), RunError>>) {
    let ended = async { while tasks.join_next().await.is_some() {} };
    let _in_time = tokio::time::timeout(SHUTDOWN_GRACE, ended).await;
}
