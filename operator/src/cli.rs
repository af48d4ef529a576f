//! The command line.

use std::io::{ErrorKind, Write};
use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use clap::{Args, Parser, Subcommand, ValueEnum};
use crds::v1alpha1::{Observer, ObserverListener};
use kube::CustomResourceExt;
use observer_operator::controller::CONCURRENCY;
use observer_operator::listener::build::Installation;
use observer_operator::probe::probe;
use observer_operator::run::{Settings, run};
use program::logs::{self, LogFormat};
use program::signals::stop_on_signal;

/// Runs observer listeners in a Kubernetes cluster.
#[derive(Debug, Parser)]
#[command(name = "observer-operator", version, arg_required_else_help = true)]
struct Cli {
    /// Form of the log lines on standard error; `RUST_LOG` sets the level
    #[arg(
        long,
        global = true,
        value_enum,
        default_value_t,
        env = "OBSERVER_LOG_FORMAT"
    )]
    log_format: LogFormat,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Work until SIGTERM or Ctrl-C
    Run(RunArgs),
    /// Print the definitions of the resources, for kubectl apply -f -
    Crds,
    /// Ask an address until it answers 200, and fail when it does not in time
    Probe(ProbeArgs),
}

#[derive(Debug, Args)]
struct ProbeArgs {
    /// Such as `http://observer-operator:8080/readyz`
    #[arg(long, value_name = "URL")]
    url: String,
    /// Seconds for which to go on asking
    #[arg(long, value_name = "SECONDS", default_value_t = 30)]
    patience: u16,
}

#[derive(Debug, Args)]
struct RunArgs {
    /// Namespace to work in; repeatable, or several with commas between them; all where none is given
    #[arg(
        long = "namespace",
        value_name = "NAME",
        value_delimiter = ',',
        env = "OBSERVER_NAMESPACES"
    )]
    namespaces: Vec<String>,
    /// Image of listeners that name none
    #[arg(long, value_name = "IMAGE", env = "OBSERVER_LISTENER_IMAGE")]
    image: String,
    /// Labels of the namespaces from which the metrics of listeners are read, as NAME=VALUE with
    /// commas between them; nothing else but the operator reaches their pods
    #[arg(
        long,
        value_name = "LABELS",
        value_delimiter = ',',
        value_parser = label,
        env = "OBSERVER_METRICS_FROM"
    )]
    metrics_from: Vec<(String, String)>,
    /// Answer /metrics, here and in the pods of listeners, only to bearer tokens of the cluster whose owners may
    /// `get` that path, as the API server says
    #[arg(long, env = "OBSERVER_AUTHORIZE_METRICS")]
    authorize_metrics: bool,
    /// Ports at which the endpoints of the API server accept connections: the pods of listeners with
    /// `networkPolicy.egress: Derived` may connect to these at every address
    #[arg(
        long = "api-server-port",
        value_name = "PORT",
        value_delimiter = ',',
        value_parser = clap::value_parser!(u16).range(1..),
        default_value = "443,6443",
        env = "OBSERVER_API_SERVER_PORTS"
    )]
    api_server_ports: Vec<u16>,
    /// Where to answer /healthz, /readyz and /metrics
    #[arg(
        long,
        value_name = "ADDRESS",
        default_value = "0.0.0.0:8080",
        env = "OBSERVER_LISTEN"
    )]
    listen: SocketAddr,
    /// Whether to wait for the Lease `observer-operator`, so that one of several operators works
    #[arg(long, value_enum, default_value_t, env = "OBSERVER_LEADER_ELECTION")]
    leader_election: LeaderElection,
    /// Namespace of this pod, and of that Lease
    #[arg(
        long,
        value_name = "NAME",
        default_value = "default",
        env = "POD_NAMESPACE"
    )]
    lease_namespace: String,
    /// Name of this pod, in the Lease and in Events
    #[arg(
        long,
        value_name = "NAME",
        default_value = "observer-operator",
        env = "POD_NAME"
    )]
    pod_name: String,
    /// Uid of this pod, in the Lease
    #[arg(long, value_name = "UID", default_value = "", env = "POD_UID")]
    pod_uid: String,
    /// Resources that are worked on at once
    #[arg(long, value_name = "NUMBER", default_value_t = CONCURRENCY, env = "OBSERVER_CONCURRENCY")]
    concurrency: usize,
}

/// A label, as `name=value`. Nothing at all is none, as an empty environment variable is.
fn label(text: &str) -> Result<(String, String), String> {
    let fits = |(name, value): (&str, &str)| {
        (!name.is_empty()).then(|| (name.to_owned(), value.to_owned()))
    };
    match text {
        "" => Ok(Default::default()),
        text => text
            .split_once('=')
            .and_then(fits)
            .ok_or_else(|| "write NAME=VALUE".to_owned()),
    }
}

/// Whether several operators agree on one that works.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum LeaderElection {
    /// They do, by a Lease.
    #[default]
    Lease,
    /// There is one operator.
    Off,
}

impl RunArgs {
    fn settings(self) -> Settings {
        Settings {
            namespaces: self
                .namespaces
                .into_iter()
                .filter(|namespace| !namespace.is_empty())
                .collect(),
            installation: Installation {
                image: self.image,
                namespace: self.lease_namespace.clone(),
                metrics_from: self
                    .metrics_from
                    .into_iter()
                    .filter(|(name, _)| !name.is_empty())
                    .collect(),
                authorize_metrics: self.authorize_metrics,
                api_server_ports: self.api_server_ports,
            },
            listen: self.listen,
            lease_namespace: (self.leader_election == LeaderElection::Lease)
                .then_some(self.lease_namespace),
            pod_name: self.pod_name,
            pod_uid: self.pod_uid,
            concurrency: self.concurrency.max(1),
        }
    }
}

/// Describes the command line.
#[must_use]
pub fn command() -> clap::Command {
    <Cli as clap::CommandFactory>::command()
}

/// Runs the program and says by its exit code how it went.
#[must_use]
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let result = match cli.command {
        Command::Crds => print_definitions(),
        Command::Probe(args) => ask(&args),
        Command::Run(args) => {
            let started = logs::start(cli.log_format, "info").context("cannot start");
            started.and_then(|()| work(args.settings()))
        }
    };
    let code = match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            logs::say(&format!("error: {error:#}\n"));
            ExitCode::FAILURE
        }
    };
    logs::flush();
    code
}

fn work(settings: Settings) -> anyhow::Result<()> {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?
        .block_on(async {
            let stop = stop_on_signal()?;
            let config = kube::Config::infer().await?;
            run(config, settings, stop).await
        })
}

fn ask(args: &ProbeArgs) -> anyhow::Result<()> {
    let patience = Duration::from_secs(args.patience.into());
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?
        .block_on(probe(&args.url, patience))
        .with_context(|| args.url.clone())?;
    print(&format!("{} is well", args.url))
}

fn print_definitions() -> anyhow::Result<()> {
    // JSON, which is YAML too: to kubectl and Helm, which read YAML 1.1, a plain `on` is a truth value.
    for definition in [ObserverListener::crd(), Observer::crd()] {
        print(&format!(
            "---\n{}",
            serde_json::to_string_pretty(&definition)?
        ))?;
    }
    Ok(())
}

/// Writes a line to standard output. A reader who has enough, as `head` has, is no failure.
fn print(text: &str) -> anyhow::Result<()> {
    match writeln!(std::io::stdout().lock(), "{text}") {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        written => written.context("cannot write to standard output"),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic, reason = "a test may panic")]

    use super::*;

    fn installation(given: &[&str]) -> Result<Installation, clap::Error> {
        let line = ["o", "run", "--image", "i"].iter().chain(given);
        let Command::Run(args) = Cli::try_parse_from(line)?.command else {
            panic!("it is `run`");
        };
        Ok(args.settings().installation)
    }

    fn metrics_from(given: &str) -> Result<Vec<(String, String)>, clap::Error> {
        let labels = installation(&["--metrics-from", given])?.metrics_from;
        Ok(labels.into_iter().collect())
    }

    #[test]
    fn ports_of_the_api_server_parse_from_one_string() {
        let ports = |given: &[&str]| installation(given).map(|found| found.api_server_ports);
        assert_eq!(ports(&[]).unwrap(), [443, 6443]);
        assert_eq!(
            ports(&["--api-server-port", "16443,443"]).unwrap(),
            [16443, 443]
        );
        for wrong in ["0", "https", ""] {
            assert!(ports(&["--api-server-port", wrong]).is_err(), "{wrong}");
        }
    }

    #[test]
    fn labels_parse_from_one_string() {
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        assert_eq!(metrics_from("").unwrap(), []);
        assert_eq!(
            metrics_from("kubernetes.io/metadata.name=monitoring,team=").unwrap(),
            [
                pair("kubernetes.io/metadata.name", "monitoring"),
                pair("team", ""),
            ]
        );
        for wrong in ["monitoring", "=x"] {
            assert!(metrics_from(wrong).is_err(), "{wrong}");
        }
    }
}
