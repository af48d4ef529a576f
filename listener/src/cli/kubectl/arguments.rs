//! Commands that run in a pod: as the plugin offers them, without what the pod knows by itself, and as they are
//! written for the pod.

use clap::{ArgAction, ArgGroup, ArgMatches, Command};

/// Options that say where the listener is, which the pod knows.
const OF_FILES: [&str; 6] = [
    "files",
    "listener",
    "secrets_dir",
    "bundle",
    "namespace",
    "database_url",
];

/// Option of commands that ask otherwise.
const CONFIRMATION: &str = "yes";

/// What examples of commands say of files.
const FILES: &str = "observer-listener";

/// Returns a command of the listener's program without the options that say where the listener is.
pub(super) fn in_plugin(command: &Command) -> Command {
    let is_kept = |id: &str| !OF_FILES.contains(&id);
    let mut offered = Command::new(command.get_name().to_owned())
        .args(
            command
                .get_arguments()
                .filter(|arg| is_kept(arg.get_id().as_str()) && !arg.is_global_set())
                .cloned(),
        )
        .subcommands(command.get_subcommands().map(in_plugin))
        .subcommand_required(command.is_subcommand_required_set())
        .arg_required_else_help(command.is_arg_required_else_help_set())
        .aliases(
            command
                .get_all_aliases()
                .map(str::to_owned)
                .collect::<Vec<_>>(),
        );
    if let Some(about) = command.get_about() {
        offered = offered.about(about.clone());
    }
    if let Some(help) = command.get_after_help() {
        let help = help.to_string().replace(" -f shop.yaml", "");
        offered = offered.after_help(help.replace(FILES, "kubectl observers"));
    }
    for group in command.get_groups() {
        let mut group = group.clone();
        let is_multiple = group.is_multiple();
        let args = group.get_args().filter(|id| is_kept(id.as_str()));
        let kept: Vec<_> = args.cloned().collect();
        if kept.is_empty() {
            continue;
        }
        let is_whole = kept.len() == group.get_args().count();
        offered = offered.group(
            ArgGroup::new(group.get_id().clone())
                .args(kept)
                .multiple(is_multiple)
                .required(group.is_required_set() && is_whole),
        );
    }
    offered
}

/// Writes a command as it was given, with all that was given for it.
pub(super) fn written(command: &Command, matches: &ArgMatches) -> Vec<String> {
    let mut words = vec![command.get_name().to_owned()];
    let mut values = Vec::new();
    for arg in command.get_arguments() {
        let id = arg.get_id().as_str();
        let is_given = matches.value_source(id) == Some(clap::parser::ValueSource::CommandLine);
        if !is_given || arg.is_global_set() {
            continue;
        }
        let given = matches.get_raw(id).into_iter().flatten();
        let given = given.map(|value| value.to_string_lossy().into_owned());
        match (arg.get_long(), arg.get_action()) {
            (Some(long), ArgAction::SetTrue) => words.push(format!("--{long}")),
            (Some(long), _) => words.extend(given.map(|value| format!("--{long}={value}"))),
            (None, _) => values.extend(given),
        }
    }
    if let Some((name, matches)) = matches.subcommand()
        && let Some(command) = command.find_subcommand(name)
    {
        words.extend(written(command, matches));
    }
    if !values.is_empty() {
        // What looks like an option is a value here.
        words.push("--".to_owned());
        words.extend(values);
    }
    words
}

/// Returns whether a command asks for a confirmation, which was not given.
pub(super) fn asks(command: &Command, matches: &ArgMatches) -> bool {
    if let Some((name, matches)) = matches.subcommand() {
        let child = command.find_subcommand(name);
        return child.is_some_and(|child| asks(child, matches));
    }
    let mut arguments = command.get_arguments();
    arguments.any(|arg| arg.get_id() == CONFIRMATION) && !matches.get_flag(CONFIRMATION)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]

    use super::*;
    use crate::cli;

    fn offered(name: &str) -> Command {
        let program = cli::command();
        in_plugin(program.find_subcommand(name).unwrap())
    }

    fn rewritten(given: &[&str]) -> Vec<String> {
        let command = offered(given[0]);
        let matches = command.clone().try_get_matches_from(given).unwrap();
        written(&command, &matches)
    }

    #[test]
    fn a_command_is_written_as_it_was_given() {
        for (given, expected) in [
            (&["tail"][..], &["tail"][..]),
            (&["tail", "-o", "json"], &["tail", "--output=json"]),
            (
                &["tail", "--outcome", "dead-letter,pending"],
                &["tail", "--outcome=dead-letter", "--outcome=pending"],
            ),
            (
                &["dead-letters", "drop", "17", "18", "--yes"],
                &["dead-letters", "drop", "--yes", "--", "17", "18"],
            ),
            (
                &["dlq", "redrive", "--all", "--observer=a/b", "--rate", "5"],
                &[
                    "dead-letters",
                    "redrive",
                    "--rate=5",
                    "--all",
                    "--observer=a/b",
                ],
            ),
            (
                &["search", "--limit", "3", "--", "-x", "new.a:\"b c\""],
                &["search", "--limit=3", "--", "-x", "new.a:\"b c\""],
            ),
            (
                &[
                    "backfill", "start", "--table", "a.b", "--where", "a=-1", "--where", "b=$(x)",
                ],
                &[
                    "backfill",
                    "start",
                    "--table=a.b",
                    "--where=a=-1",
                    "--where=b=$(x)",
                ],
            ),
            (
                &["breaker", "reset", "shop", "post"],
                &["breaker", "reset", "--", "shop", "post"],
            ),
        ] {
            let command = offered(&rewritten_name(given));
            let matches = command.clone().try_get_matches_from(given).unwrap();
            assert_eq!(written(&command, &matches), expected, "{given:?}");
        }
    }

    fn rewritten_name(given: &[&str]) -> String {
        if given[0] == "dlq" {
            "dead-letters"
        } else {
            given[0]
        }
        .to_owned()
    }

    #[test]
    fn what_is_written_is_read_the_same_again() {
        for given in [
            &["replay", "--observer", "a", "--from", "24h", "--key", "--x"][..],
            &["cache", "invalidate", "--entity", "a.b", "--key", "7"],
            &["events", "list", "--limit", "7"],
        ] {
            let given: Vec<&str> = given
                .iter()
                .map(|word| if *word == "--x" { "-" } else { word })
                .collect();
            let once = rewritten(&given);
            let words: Vec<&str> = once.iter().map(String::as_str).collect();
            assert_eq!(rewritten(&words), once);
        }
    }

    #[test]
    fn options_of_files_are_not_offered() {
        fn check(command: &Command) {
            for arg in command.get_arguments() {
                let id = arg.get_id().as_str();
                assert!(!OF_FILES.contains(&id), "{} has {id}", command.get_name());
            }
            let help = command.clone().render_long_help().to_string();
            assert!(!help.contains("-f shop"), "{help}");
            command.get_subcommands().for_each(check);
        }
        for name in super::super::IN_POD {
            check(&offered(name));
        }
    }
}
