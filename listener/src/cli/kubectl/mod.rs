//! The plugin `kubectl observers`: the listener's program under another name.
//!
//! What concerns a listener's database runs in one of its pods, through `pods/exec`, with the rights of whoever
//! runs the plugin. No token leaves this machine but for the API server, and nothing of the database does but what
//! the command prints. Resources are read and patched directly.

mod arguments;
mod cluster;
pub(super) mod complete;
mod exec;
mod listeners;

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use clap::{ArgMatches, Args, Command, FromArgMatches, Subcommand, ValueEnum};
use crds::v1alpha1::Observer;
use kube::ResourceExt;
use kube::api::{ListParams, Patch, PatchParams};
use serde_json::json;

use self::cluster::{Cluster, ClusterArgs, answer, failure};
use super::output::{OutputFormat, say};
use super::status::interval;
use super::{CliError, watch};

/// Name of the program as kubectl looks for it.
const NAME: &str = "kubectl-observers";

/// What the plugin is for.
const ABOUT: &str =
    "Look at listeners and observers in a cluster, and mend what is wrong, through their pods";

/// First word of the script `kubectl_complete-observers`, before what is typed.
pub(super) const COMPLETE: &str = "__complete";

/// Name that patches have in the history of fields.
const FIELD_MANAGER: &str = "kubectl-observers";

/// Commands that run in a pod. `status` does too where a listener is named.
///
/// `reset-position` is none of them: it is refused while a process of the listener runs, as one does in each pod.
pub(super) const IN_POD: [&str; 10] = [
    "search",
    "events",
    "tail",
    "jobs",
    "dead-letters",
    "cache",
    "breaker",
    "log-level",
    "replay",
    "backfill",
];

/// Commands that the plugin runs itself.
#[derive(Debug, Subcommand)]
enum OwnCommand {
    /// Show the listeners of a namespace; with --listener the shards, processes, jobs and circuit breakers of one
    Status(StatusArgs),
    /// Suspend an observer: events pass without being delivered by it until it is resumed
    Suspend(ObserverArgs),
    /// Resume an observer that was suspended, from the next event on
    Resume(ObserverArgs),
}

#[derive(Debug, Args)]
struct StatusArgs {
    /// Output format; `wide` and `yaml` without --listener only
    #[arg(long, short, value_enum, default_value_t)]
    output: Format,
    /// Listeners of all namespaces
    #[arg(long, short = 'A', conflicts_with_all = ["namespace", "listener"])]
    all_namespaces: bool,
    /// Show it again and again until Ctrl-C
    #[arg(long, short)]
    watch: bool,
    /// Time between two looks
    #[arg(long, value_name = "DURATION", default_value = "2s", value_parser = interval, requires = "watch")]
    interval: Duration,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum Format {
    /// Columns
    #[default]
    Table,
    /// Columns, also with what is wrong
    Wide,
    /// JSON
    Json,
    /// YAML
    Yaml,
}

#[derive(Debug, Args)]
struct ObserverArgs {
    /// Observer
    observer: String,
}

/// Returns whether the program was called as the plugin.
pub(super) fn is_called(program: &std::ffi::OsStr) -> bool {
    Path::new(program).file_stem() == Some(NAME.as_ref())
}

/// Describes the command line of the plugin.
#[must_use]
pub fn command() -> Command {
    let program = super::command();
    let in_pod = IN_POD
        .iter()
        .filter_map(|name| program.find_subcommand(name));
    let plugin = Command::new(NAME)
        .bin_name("kubectl observers")
        .version(env!("CARGO_PKG_VERSION"))
        .subcommand_required(true)
        .arg_required_else_help(true);
    // After what the types say of themselves.
    let plugin = OwnCommand::augment_subcommands(ClusterArgs::augment_args(plugin)).about(ABOUT);
    in_pod.fold(plugin, |plugin, command| {
        plugin.subcommand(arguments::in_plugin(command))
    })
}

/// Runs the plugin and returns its exit code.
pub(super) async fn run(matches: &ArgMatches) -> Result<ExitCode, CliError> {
    let args = ClusterArgs::from_arg_matches(matches).map_err(|error| usage(&error))?;
    let Some((name, given)) = matches.subcommand() else {
        return Err(CliError::Config(
            "name a command; --help lists them".to_owned(),
        ));
    };
    if IN_POD.contains(&name) {
        let command = command();
        let command = command.find_subcommand(name).unwrap_or(&command);
        let words = arguments::written(command, given);
        let may_ask = arguments::asks(command, given);
        return in_pod(&args, words, may_ask).await;
    }
    match OwnCommand::from_arg_matches(matches).map_err(|error| usage(&error))? {
        OwnCommand::Status(status) => show_status(args, status).await,
        OwnCommand::Suspend(observer) => {
            suspend(&args.open().await?, &observer.observer, true).await
        }
        OwnCommand::Resume(observer) => {
            suspend(&args.open().await?, &observer.observer, false).await
        }
    }
}

fn usage(error: &clap::Error) -> CliError {
    CliError::Config(error.to_string())
}

/// Runs a command in a pod of the listener.
async fn in_pod(
    args: &ClusterArgs,
    words: Vec<String>,
    may_ask: bool,
) -> Result<ExitCode, CliError> {
    let cluster = args.open().await?;
    let pod = cluster.pod(args.listener.as_deref()).await?;
    exec::run(&cluster, &pod, words, may_ask).await
}

async fn show_status(args: ClusterArgs, status: StatusArgs) -> Result<ExitCode, CliError> {
    if args.listener.is_some() {
        let mut words = vec!["status".to_owned()];
        match status.output {
            Format::Table => {}
            Format::Json => words.push("--output=json".to_owned()),
            Format::Wide | Format::Yaml => {
                return Err(CliError::Config(
                    "the status of one listener is shown as table or json".to_owned(),
                ));
            }
        }
        if status.watch {
            words.push("--watch".to_owned());
            words.push(format!("--interval={}ms", status.interval.as_millis()));
        }
        return in_pod(&args, words, false).await;
    }
    let cluster = args.open().await?;
    let look = async || {
        let found = cluster.listeners(status.all_namespaces).await?;
        match status.output {
            Format::Json | Format::Yaml => {
                listeners::document(&found, status.output == Format::Yaml)
            }
            Format::Table | Format::Wide if found.is_empty() => Ok(if status.all_namespaces {
                "no listeners".to_owned()
            } else {
                format!("no listeners in namespace {}", cluster.namespace)
            }),
            Format::Table | Format::Wide => {
                let wide = status.output == Format::Wide;
                Ok(listeners::table(&found, status.all_namespaces, wide).join("\n"))
            }
        }
    };
    if status.watch {
        let format = match status.output {
            Format::Json | Format::Yaml => OutputFormat::Json,
            Format::Table | Format::Wide => OutputFormat::Table,
        };
        watch::repeat(status.interval, format, look).await?;
    } else {
        say!("{}", look().await?)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Suspends or resumes an observer.
async fn suspend(cluster: &Cluster, name: &str, suspended: bool) -> Result<ExitCode, CliError> {
    let api = cluster.api::<Observer>();
    let (namespace, state) = (
        &cluster.namespace,
        if suspended { "suspended" } else { "at work" },
    );
    let Some(found) = answer(async { api.get_opt(name).await }).await? else {
        return Err(unknown(cluster, name).await);
    };
    if found.spec.suspend == suspended {
        say!("observer {namespace}/{name} is {state} already")?;
        return Ok(ExitCode::SUCCESS);
    }
    let patch = Patch::Merge(json!({ "spec": { "suspend": suspended } }));
    let parameters = PatchParams {
        field_manager: Some(FIELD_MANAGER.to_owned()),
        ..PatchParams::default()
    };
    answer(async { api.patch(name, &parameters, &patch).await }).await?;
    if suspended {
        say!(
            "observer {namespace}/{name} is suspended: events from now on are not delivered by it, also not later \
             unless they are replayed"
        )?;
    } else {
        say!("observer {namespace}/{name} is at work again, from now on")?;
    }
    Ok(ExitCode::SUCCESS)
}

async fn unknown(cluster: &Cluster, name: &str) -> CliError {
    let listed = cluster.api::<Observer>().list(&ListParams::default()).await;
    let known: Vec<String> = match listed {
        Ok(listed) => listed.items.iter().map(ResourceExt::name_any).collect(),
        Err(error) => return failure(&error),
    };
    cluster.absent("observer", name, &known)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        command().debug_assert();
        let offered = command();
        for name in IN_POD {
            assert!(offered.find_subcommand(name).is_some(), "{name}");
        }
    }
}
