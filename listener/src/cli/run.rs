//! `run`: a listener until a signal.

use std::net::SocketAddr;
use std::sync::Arc;

use clap::Args;
use observer_listener::actions::Shared;
use observer_listener::database::DatabaseError;
use observer_listener::dispatch::observers::Observers;
use observer_listener::run::{Options, RunError, run as run_listener};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{CliError, FileArgs, check, files};

#[derive(Debug, Args)]
pub(super) struct RunArgs {
    #[command(flatten)]
    files: FileArgs,
    /// Address for /healthz, /readyz and /metrics, or `off`
    #[arg(
        long,
        value_name = "ADDRESS",
        default_value = "127.0.0.1:9464",
        env = "OBSERVER_LISTEN"
    )]
    listen: String,
}

/// Runs until SIGTERM or SIGINT, then drains.
pub(super) async fn run(args: RunArgs) -> Result<(), CliError> {
    let listen = match args.listen.as_str() {
        "off" => None,
        address => Some(address.parse::<SocketAddr>().map_err(|_| {
            CliError::Config(format!(
                "--listen {address}: write an address and a port, as 127.0.0.1:9464, or off"
            ))
        })?),
    };
    let loaded = files::load(&args.files)?;
    let listener = loaded.bundle.listener;
    let shared = Shared::new(&listener.egress)?;
    let observers = Observers::compile(&loaded.bundle.observers, &shared).map_err(|wrong| {
        let located = wrong.into_iter().map(|one| {
            loaded
                .locations
                .problem(&one.observer, &one.path, one.message)
        });
        CliError::Config(check::listed(&located.collect::<Vec<_>>()))
    })?;
    let stop = stop_on_signal()?;
    let options = Options {
        listen,
        holder: holder(),
        metrics: None,
    };
    run_listener(
        &listener,
        watch::channel(Arc::new(observers)).1,
        options,
        stop,
    )
    .await
    .map_err(|error| match error {
        RunError::Database(DatabaseError::Url(_)) => CliError::Config(error.to_string()),
        error => CliError::Run(error.into()),
    })
}

/// Names this start of this process: host, process and a random part.
fn holder() -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let host = if host.trim().is_empty() {
        "host"
    } else {
        host.trim()
    };
    format!("{host}/{}/{}", std::process::id(), Uuid::new_v4().simple())
}

/// A token that the first SIGTERM or SIGINT cancels; the second ends the process at once.
pub(super) fn stop_on_signal() -> Result<CancellationToken, CliError> {
    let stop = CancellationToken::new();
    let (mut term, mut int) = (
        signal(SignalKind::terminate())?,
        signal(SignalKind::interrupt())?,
    );
    let token = stop.clone();
    // It lives as long as the process does, and has nothing to fail at.
    tokio::spawn(async move {
        tokio::select! { _ = term.recv() => {}, _ = int.recv() => {} }
        tracing::info!("stopping: finishing what is under way; a second signal stops at once");
        token.cancel();
        tokio::select! { _ = term.recv() => {}, _ = int.recv() => {} }
        std::process::exit(130);
    });
    Ok(stop)
}
