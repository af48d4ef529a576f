//! `run` and `worker`: run a listener from files or from a bundle in a cluster until a signal.

use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;

use clap::{ArgGroup, Args};
use observer_listener::coordination::membership::Member;
use observer_listener::coordination::process;
use observer_listener::database::DatabaseError;
use observer_listener::runtime::cluster;
use observer_listener::runtime::error::RunError;
use observer_listener::runtime::standalone::{Jobs, Options, run as run_listener};
use observer_listener::telemetry::metrics::Metrics;
use program::signals::stop_on_signal;
use prometheus::IntCounter;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::watched::{FileWatcher, Program, ProgramLoader};
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
}

/// Arguments of a pod, from its environment.
#[derive(Debug, Args)]
struct PodArgs {
    /// Secret with the key `bundle.yaml` to run in a cluster, instead of files
    #[arg(
        long,
        value_name = "NAME",
        env = "OBSERVER_BUNDLE",
        conflicts_with_all = ["listener", "secrets_dir"],
        requires = "listener_name"
    )]
    bundle: Option<String>,
    /// Name of the listener of the bundle
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
    /// Uid of this pod
    #[arg(long, env = "POD_UID", hide = true, default_value = "")]
    pod_uid: String,
}

/// Runs until SIGTERM or SIGINT, then drains.
pub(super) async fn run(args: RunArgs, jobs: Jobs) -> Result<(), CliError> {
    let listen = match args.listen.as_str() {
        "off" => None,
        address => Some(address.parse::<SocketAddr>().map_err(|_| {
            CliError::Config(format!(
                "--listen {address}: use an address and a port, as 127.0.0.1:9464, or off"
            ))
        })?),
    };
    if let Some(bundle) = args.pod.bundle {
        ignore_hangup()?;
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
    let hangup = signal(SignalKind::hangup())?;
    // A stop while the files are read must end well too.
    let stop = stop_on_signal()?;
    // Changes from now on are applied.
    let mut watched = FileWatcher::new(files, hangup);
    let mut loader = ProgramLoader::default();
    let mut program = loader.load(files)?;
    let (member, mut metrics) = (process::member(), None);
    loop {
        let name = program.listener.identity();
        let current: Metrics = match metrics.take() {
            Some((of, same)) if of == name => same,
            _ => Metrics::new(&name).map_err(RunError::from)?,
        };
        metrics = Some((name, current.clone()));
        let options = Options {
            listen,
            jobs,
            member: member.clone(),
            metrics: Some(current),
        };
        match run_until_other_listener(&mut program, (&mut watched, &mut loader), options, &stop)
            .await?
        {
            Some(next) => program = next,
            None => return Ok(()),
        }
    }
}

/// Runs a program, and later ones with the same listener, until a stop or until the files contain
/// another listener. Returns the program with the other listener.
async fn run_until_other_listener(
    program: &mut Program,
    (watched, loader): (&mut FileWatcher<'_>, &mut ProgramLoader),
    options: Options,
    stop: &CancellationToken,
) -> Result<Option<Program>, CliError> {
    let (send, observers) = watch::channel(Arc::clone(&program.observers));
    let (end, listener) = (stop.child_token(), Arc::clone(&program.listener));
    let reloads = options
        .metrics
        .as_ref()
        .map(|metrics| metrics.config_reloads.clone());
    let mut running = pin!(run_listener(&listener, observers, options, end.clone()));
    let mut next = None;
    loop {
        tokio::select! {
            result = &mut running => {
                result.map_err(|error| match error {
                    RunError::Database(DatabaseError::Url(_)) => CliError::Config(error.to_string()),
                    error => CliError::Run(error.into()),
                })?;
                return Ok(next.filter(|_| !stop.is_cancelled()));
            }
            () = watched.changed(), if next.is_none() => match loader.load(watched.args()) {
                Err(CliError::Config(problems)) => {
                    tracing::warn!("the changed files are invalid; the previous configuration stays in use: {problems}");
                }
                Err(error) => return Err(error),
                Ok(new) => {
                    reloads.iter().for_each(IntCounter::inc);
                    if program.is_same_listener(&new) {
                        tracing::info!("the files have changed: applying their observers");
                        send.send_replace(Arc::clone(&new.observers));
                        *program = new;
                    } else {
                        tracing::info!("the listener has changed: draining deliveries in flight before a restart");
                        end.cancel();
                        next = Some(new);
                    }
                }
            },
        }
    }
}

/// Ignores SIGHUP, which a listener gets when its terminal is closed.
fn ignore_hangup() -> Result<(), CliError> {
    let mut hangup = signal(SignalKind::hangup())?;
    // It runs for as long as the process, and cannot fail.
    tokio::spawn(async move {
        while hangup.recv().await.is_some() {
            tracing::info!("SIGHUP is ignored; a changed bundle is applied without it");
        }
    });
    Ok(())
}
