//! Completion for kubectl, which calls `kubectl_complete-observers` with what is typed and reads a proposal from
//! each line, and from the last one how to go on.

use std::process::ExitCode;
use std::time::Duration;

use clap::{Arg, Args, Command, FromArgMatches};
use crds::v1alpha1::Observer;
use kube::ResourceExt;
use kube::api::ListParams;
use kube::config::Kubeconfig;

use super::cluster::ClusterArgs;
use crate::cli::CliError;
use crate::cli::output::say;

/// How long somebody who types waits for names.
const TIMEOUT: Duration = Duration::from_secs(2);

/// Tells the shell to propose no files.
const NO_FILES: &str = ":4";

/// What is completed.
#[derive(Debug, PartialEq, Eq)]
enum Wanted {
    /// These words.
    Words(Vec<String>),
    Listeners,
    Observers,
    Contexts,
}

/// Prints the proposals for the last word, which may be empty.
pub(in crate::cli) async fn complete(words: &[String]) -> Result<ExitCode, CliError> {
    let (last, before) = match words.split_last() {
        Some((last, before)) => (last.as_str(), before),
        None => ("", words),
    };
    let root = super::command();
    let proposals = match wanted(&root, before, last) {
        Wanted::Words(words) => words,
        // Names that cannot be had are none.
        dynamic => tokio::time::timeout(TIMEOUT, names(&root, before, &dynamic))
            .await
            .unwrap_or_default(),
    };
    for word in proposals.iter().filter(|word| word.starts_with(last)) {
        say!("{word}")?;
    }
    say!("{NO_FILES}")?;
    Ok(ExitCode::SUCCESS)
}

/// Returns what the word after these is.
fn wanted(root: &Command, before: &[String], last: &str) -> Wanted {
    let (mut command, mut positionals, mut value_of) = (root, 0, None);
    for word in before {
        if value_of.take().is_some() {
            continue;
        }
        if word.starts_with('-') {
            value_of = option(root, command, word).filter(|arg| arg.get_action().takes_values());
        } else if let Some(child) = command.find_subcommand(word) {
            command = child;
        } else {
            positionals += 1;
        }
    }
    if let Some(arg) = value_of {
        return values(arg);
    }
    if last.starts_with('-') {
        let all = options(root, command);
        let longs = all
            .filter_map(Arg::get_long)
            .map(|long| format!("--{long}"));
        return Wanted::Words(longs.collect());
    }
    if command.has_subcommands() {
        let shown = command
            .get_subcommands()
            .filter(|child| !child.is_hide_set());
        return Wanted::Words(shown.map(|child| child.get_name().to_owned()).collect());
    }
    match command.get_positionals().nth(positionals) {
        Some(arg) => values(arg),
        None => Wanted::Words(Vec::new()),
    }
}

fn options<'c>(root: &'c Command, command: &'c Command) -> impl Iterator<Item = &'c Arg> {
    let own = command.get_arguments();
    let global = root.get_arguments().filter(|arg| arg.is_global_set());
    own.chain(global).filter(|arg| !arg.is_hide_set())
}

fn option<'c>(root: &'c Command, command: &'c Command, word: &str) -> Option<&'c Arg> {
    let is_meant = |arg: &&Arg| match (word.strip_prefix("--"), word.strip_prefix('-')) {
        (Some(long), _) => arg.get_long() == Some(long),
        (_, Some(short)) => arg.get_short().is_some_and(|own| *short == own.to_string()),
        _ => false,
    };
    options(root, command).find(is_meant)
}

fn values(arg: &Arg) -> Wanted {
    match arg.get_id().as_str() {
        "listener" => Wanted::Listeners,
        "observer" => Wanted::Observers,
        "context" => Wanted::Contexts,
        _ => {
            let values = arg.get_possible_values();
            Wanted::Words(
                values
                    .iter()
                    .map(|value| value.get_name().to_owned())
                    .collect(),
            )
        }
    }
}

/// Asks the cluster of what is typed for names.
async fn names(root: &Command, before: &[String], wanted: &Wanted) -> Vec<String> {
    if *wanted == Wanted::Contexts {
        let contexts = Kubeconfig::read()
            .map(|file| file.contexts)
            .unwrap_or_default();
        return contexts.into_iter().map(|context| context.name).collect();
    }
    let typed = typed(root, before);
    let Ok(cluster) = typed.open().await else {
        return Vec::new();
    };
    if *wanted == Wanted::Listeners {
        let listed = cluster.listeners(false).await.unwrap_or_default();
        return listed.iter().map(ResourceExt::name_any).collect();
    }
    let listed = cluster.api::<Observer>().list(&ListParams::default()).await;
    listed.map_or_else(
        |_| Vec::new(),
        |list| list.items.iter().map(ResourceExt::name_any).collect(),
    )
}

/// Returns where the listener is as far as that is typed.
fn typed(root: &Command, before: &[String]) -> ClusterArgs {
    let mut words = vec![root.get_name().to_owned()];
    let mut rest = before.iter();
    while let Some(word) = rest.next() {
        let name = word.split('=').next().unwrap_or_default();
        let is_global = option(root, root, name).is_some_and(Arg::is_global_set);
        if is_global && word.contains('=') {
            words.push(word.clone());
        } else if is_global && let Some(value) = rest.next() {
            // The option whose value is being typed has none.
            words.extend([word.clone(), value.clone()]);
        }
    }
    let command = ClusterArgs::augment_args(Command::new("typed"));
    let matches = command.try_get_matches_from(words);
    matches
        .and_then(|matches| ClusterArgs::from_arg_matches(&matches))
        .unwrap_or_default()
}
