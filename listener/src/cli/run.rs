//! `run` and `worker`: run a listener from files or from a bundle in a cluster until a signal.

use std::net::SocketAddr;

use clap::{ArgGroup, Args};
use observer_listener::coordination::membership::MemberIdentity;
use observer_listener::coordination::process;
use observer_listener::database::DatabaseError;
use observer_listener::runtime::cluster::{self, PodOptions};
use observer_listener::runtime::error::RunError;
use observer_listener::runtime::job_worker::WorkerMode;
use observer_listener::runtime::supervisor::{self, ProcessOptions};
use observer_listener::server::MetricsAccess;
use program::signals::stop_on_signal;
use tokio::signal::unix::{SignalKind, signal};

use super::watched::FileSource;
use super::{CliError, FileArgs};

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
    /// Address for the HTTP API of a listener with `spec.api`, or `off`; the address of --listen serves both on
    /// one port
    #[arg(
        long,
        value_name = "ADDRESS",
        default_value = "127.0.0.1:9465",
        env = "OBSERVER_API_LISTEN"
    )]
    api_listen: String,
    /// Serve the console beside the HTTP API, and print the link to it. A listener without `spec.api` gets both,
    /// for a token that only this link holds
    #[arg(long, env = "OBSERVER_CONSOLE", conflicts_with = "bundle")]
    console: bool,
}

/// Arguments of a pod, from its environment.
#[derive(Debug, Args)]
struct PodArgs {
    /// Name of the listener of the bundle, which with its namespace names the process and its Leases
    #[arg(
        id = "listener_name",
        long = "listener-name",
        value_name = "NAME",
        env = "OBSERVER_LISTENER"
    )]
    name: Option<String>,
    /// Answer /metrics only to bearer tokens of the cluster whose owners may `get` that path, as the API server says
    #[arg(long, env = "OBSERVER_AUTHORIZE_METRICS")]
    authorize_metrics: bool,
    /// Name of this pod
    #[arg(long, env = "POD_NAME", hide = true)]
    pod: Option<String>,
    /// Uid of this pod
    #[arg(long, env = "POD_UID", hide = true, default_value = "")]
    pod_uid: String,
}

/// Runs until SIGTERM or SIGINT, then drains.
pub(super) async fn run(args: RunArgs, worker_mode: WorkerMode) -> Result<(), CliError> {
    if args.console && args.api_listen == "off" {
        return Err(CliError::Config(
            "--console needs an address: leave out --api-listen off".to_owned(),
        ));
    }
    let listen = address("--listen", &args.listen, "127.0.0.1:9464")?;
    let api_listen = address("--api-listen", &args.api_listen, "127.0.0.1:9465")?;
    if args.files.is_bundle() {
        args.files.require_none_of_files()?;
    }
    if let Some(bundle) = args.files.bundle.bundle {
        let Some(listener) = args.pod.name else {
            return Err(CliError::Config(
                "name the listener of the bundle with --listener-name".to_owned(),
            ));
        };
        ignore_hangup()?;
        let options = PodOptions {
            namespace: args.files.bundle.namespace,
            bundle,
            listener,
            member: MemberIdentity {
                name: args.pod.pod.unwrap_or_else(process::host),
                uid: args.pod.pod_uid,
            },
            listen,
            api_listen,
            authorize_metrics: args.pod.authorize_metrics,
            dedicated_worker: worker_mode == WorkerMode::Dedicated,
        };
        return Ok(cluster::run(options, stop_on_signal()?).await?);
    }
    if args.pod.authorize_metrics {
        return Err(CliError::Config(
            "--authorize-metrics asks the API server of the cluster that --bundle is in; with files, let --listen be \
             an address that others do not reach"
                .to_owned(),
        ));
    }
    let addresses = (listen, api_listen);
    run_files(&args.files, addresses, args.console, worker_mode).await
}

/// Parses an address to listen on; `off` is none.
fn address(name: &str, text: &str, example: &str) -> Result<Option<SocketAddr>, CliError> {
    if text == "off" {
        return Ok(None);
    }
    let address = text.parse().map_err(|_| {
        CliError::Config(format!(
            "{name} {text}: use an address and a port, as {example}, or off"
        ))
    })?;
    Ok(Some(address))
}

async fn run_files(
    files: &FileArgs,
    (listen, api_listen): (Option<SocketAddr>, Option<SocketAddr>),
    console: bool,
    worker_mode: WorkerMode,
) -> Result<(), CliError> {
    let hangup = signal(SignalKind::hangup())?;
    // A stop while the files are read must end well too.
    let stop = stop_on_signal()?;
    let source = FileSource::open(files, hangup, worker_mode)?;
    let options = ProcessOptions {
        listener: source.listener().identity(),
        member: process::member(),
        listen,
        api_listen,
        console,
        metrics: None,
        metrics_access: MetricsAccess::default(),
    };
    let result = supervisor::run(source, options, stop).await;
    result.map_err(|error| match error {
        RunError::Database(DatabaseError::Url(_)) => CliError::Config(error.to_string()),
        error => CliError::Run(error.into()),
    })
}

/// Ignores SIGHUP, which closing the terminal of a listener in the background sends.
fn ignore_hangup() -> Result<(), CliError> {
    let mut hangup = signal(SignalKind::hangup())?;
    // It runs for as long as the process, and cannot fail.
    tokio::spawn(async move {
        while hangup.recv().await.is_some() {
            tracing::info!("SIGHUP ignored; a changed bundle is reloaded without it");
        }
    });
    Ok(())
}
