//! `run`: a listener until a signal, from files or from a bundle in a cluster.

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

use super::watched::{Loader, Program, Watched};
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
    let listen = match args.listen.as_str() {
        "off" => None,
        address => Some(address.parse::<SocketAddr>().map_err(|_| {
            CliError::Config(format!(
                "--listen {address}: write an address and a port, as 127.0.0.1:9464, or off"
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
    // A stop while the files are read ends well too.
    let stop = stop_on_signal()?;
    // What changes from now on is taken up.
    let mut watched = Watched::new(files, hangup);
    let mut loader = Loader::default();
    let mut program = loader.load(files)?;
    let (member, mut metrics) = (process::member(), None);
    loop {
        let name = program.listener.identity();
        let shown: Metrics = match metrics.take() {
            Some((of, shown)) if of == name => shown,
            _ => Metrics::new(&name).map_err(RunError::from)?,
        };
        metrics = Some((name, shown.clone()));
        let options = Options {
            listen,
            jobs,
            member: member.clone(),
            metrics: Some(shown),
        };
        match until_another(&mut program, (&mut watched, &mut loader), options, &stop).await? {
            Some(next) => program = next,
            None => return Ok(()),
        }
    }
}

/// Runs a program, and those that differ from it in their observers only, until a stop or until there
/// is another listener to run.
async fn until_another(
    program: &mut Program,
    (watched, loader): (&mut Watched<'_>, &mut Loader),
    options: Options,
    stop: &CancellationToken,
) -> Result<Option<Program>, CliError> {
    let (send, observers) = watch::channel(Arc::clone(&program.observers));
    let (end, listener) = (stop.child_token(), Arc::clone(&program.listener));
    let reloads = options
        .metrics
        .as_ref()
        .map(|metrics| metrics.reloads.clone());
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
                Err(CliError::Config(wrong)) => {
                    tracing::warn!("the files have changed and cannot be run, so what was read before goes on: {wrong}");
                }
                Err(error) => return Err(error),
                Ok(new) => {
                    reloads.iter().for_each(IntCounter::inc);
                    if program.is_same_listener(&new) {
                        tracing::info!("the files have changed: taking up their observers");
                        send.send_replace(Arc::clone(&new.observers));
                        *program = new;
                    } else {
                        tracing::info!("the listener has changed: finishing what is under way to begin anew");
                        end.cancel();
                        next = Some(new);
                    }
                }
            },
        }
    }
}

/// Has SIGHUP end nothing: the terminal of a listener that goes on without it was closed.
fn ignore_hangup() -> Result<(), CliError> {
    let mut hangup = signal(SignalKind::hangup())?;
    // It lives as long as the process does, and has nothing to fail at.
    tokio::spawn(async move {
        while hangup.recv().await.is_some() {
            tracing::info!("SIGHUP is ignored; a bundle that has changed is taken up without it");
        }
    });
    Ok(())
}
