//! `run`: a listener until a signal, from files or from a bundle in a cluster.

use std::net::SocketAddr;
use std::sync::Arc;

use clap::{ArgGroup, Args};
use observer_listener::actions::{Fleet, Gates, Shared};
use observer_listener::cluster;
use observer_listener::database::DatabaseError;
use observer_listener::dispatch::observers::Observers;
use observer_listener::lint::lint;
use observer_listener::run::{Jobs, Options, RunError, run as run_listener};
use observer_listener::shard::fleet::Member;
use observer_listener::shard::process;
use observer_listener::telemetry::logs;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{CliError, FileArgs, check, files};

#[derive(Debug, Args)]
#[command(group = ArgGroup::new("what").args(["files", "bundle"]).required(true))]
pub(super) struct RunArgs {
    #[command(flatten)]
    files: FileArgs,
    #[command(flatten)]
    pod: PodArgs,
    /// Address for /healthz, /readyz and /metrics, or `off`
    #[arg(
        long,
        value_name = "ADDRESS",
        default_value = "127.0.0.1:9464",
        env = "OBSERVER_LISTEN"
    )]
    listen: String,
}

/// What a pod is told by its environment.
#[derive(Debug, Args)]
struct PodArgs {
    /// Secret whose key `bundle.yaml` is run in a cluster, instead of files
    #[arg(
        long,
        value_name = "NAME",
        env = "OBSERVER_BUNDLE",
        conflicts_with_all = ["listener", "secrets_dir"],
        requires = "listener_name"
    )]
    bundle: Option<String>,
    /// Name of the listener that the bundle is of
    #[arg(
        id = "listener_name",
        long = "listener-name",
        value_name = "NAME",
        env = "OBSERVER_LISTENER"
    )]
    name: Option<String>,
    /// Namespace of the Secret and the Leases
    #[arg(long, value_name = "NAME", env = "POD_NAMESPACE")]
    namespace: Option<String>,
    /// Name of this pod
    #[arg(long, env = "POD_NAME", hide = true)]
    pod: Option<String>,
    /// Its uid
    #[arg(long, env = "POD_UID", hide = true, default_value = "")]
    pod_uid: String,
}

/// Runs until SIGTERM or SIGINT, then drains.
pub(super) async fn run(args: RunArgs, jobs: Jobs) -> Result<(), CliError> {
    ignore_hangup()?;
    let listen = match args.listen.as_str() {
        "off" => None,
        address => Some(address.parse::<SocketAddr>().map_err(|_| {
            CliError::Config(format!(
                "--listen {address}: write an address and a port, as 127.0.0.1:9464, or off"
            ))
        })?),
    };
    if let Some(bundle) = args.pod.bundle {
        let options = cluster::Options {
            namespace: args.pod.namespace,
            bundle,
            listener: args.pod.name.unwrap_or_default(),
            member: Member {
                name: args.pod.pod.unwrap_or_else(process::host),
                uid: args.pod.pod_uid,
            },
            listen,
            only_jobs: jobs == Jobs::Only,
        };
        return Ok(cluster::run(options, stop_on_signal()?).await?);
    }
    run_files(&args.files, listen, jobs).await
}

async fn run_files(
    files: &FileArgs,
    listen: Option<SocketAddr>,
    jobs: Jobs,
) -> Result<(), CliError> {
    let loaded = files::load(files)?;
    let listener = loaded.bundle.listener;
    let redis = listener.queue.redis.as_ref();
    let fleet = redis.and_then(|url| Fleet::new(url, &listener.identity()));
    let shared = Shared::new(&listener.egress, &Gates::default())?
        .with_fleet(fleet)
        .with_max_in_flight(listener.max_in_flight);
    let observers = Observers::compile(&loaded.bundle.observers, &shared).map_err(|wrong| {
        let located = wrong.into_iter().map(|one| {
            loaded
                .locations
                .problem(&one.observer, &one.path, one.message)
        });
        CliError::Config(check::listed(&located.collect::<Vec<_>>()))
    })?;
    for observer in &loaded.bundle.observers {
        for never in lint(observer, &shared) {
            tracing::warn!(
                observer = never.observer,
                path = never.path,
                "{}",
                never.message
            );
        }
    }
    let stop = stop_on_signal()?;
    let options = Options {
        listen,
        jobs,
        member: process::member(),
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

/// Has SIGHUP end nothing: the terminal of a listener that goes on without it was closed, or somebody
/// expects files to be read anew.
fn ignore_hangup() -> Result<(), CliError> {
    let mut hangup = signal(SignalKind::hangup())?;
    // It lives as long as the process does, and has nothing to fail at.
    tokio::spawn(async move {
        while hangup.recv().await.is_some() {
            tracing::info!("SIGHUP is ignored; changed files are taken up by a new start");
        }
    });
    Ok(())
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
        logs::flush();
        std::process::exit(130);
    });
    Ok(stop)
}
