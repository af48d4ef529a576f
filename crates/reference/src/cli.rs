//! Commands of both programs, from their definitions.

use clap::{Arg, ArgAction, Command};

use crate::{cell, table};

/// Writes the page.
pub(crate) fn body() -> String {
    let mut text = "`--help` of each command says the same. \
        Exit code 0: stopped as asked. 1: the command failed while it ran, and the message says what \
        to do. 2: the configuration or the command line is wrong, or `--yes` is missing for a command \
        that repeats or deletes something. A command for a listener, a dead letter or a job that does \
        not exist ends with 1.\n\n"
        .to_owned();
    for mut program in [listener::cli::command(), operator::cli::command()] {
        program.build();
        section(&program, program.get_name(), &mut text);
    }
    text
}

/// Options that stand in a table, in the order of their names. What clap adds itself is left out.
pub(crate) fn options(command: &Command) -> Vec<&Arg> {
    let mut options: Vec<&Arg> = command
        .get_arguments()
        .filter(|arg| !arg.is_hide_set())
        .filter(|arg| {
            !matches!(
                arg.get_action(),
                ArgAction::Help | ArgAction::HelpShort | ArgAction::HelpLong | ArgAction::Version
            )
        })
        .collect();
    options.sort_by_key(|arg| (!arg.is_positional(), arg.get_long()));
    options
}

/// Default of an option, if it has one that is shown.
pub(crate) fn default(arg: &Arg) -> String {
    let values: Vec<_> = arg
        .get_default_values()
        .iter()
        .map(|value| value.to_string_lossy())
        .filter(|value| !value.is_empty())
        .collect();
    match arg.get_action() {
        ArgAction::SetTrue | ArgAction::SetFalse => String::new(),
        _ if values.is_empty() => String::new(),
        _ => format!("`{}`", values.join(",")),
    }
}

fn section(command: &Command, path: &str, text: &mut String) {
    let about = command.get_long_about().or(command.get_about());
    let about = about
        .map(|about| cell(&about.to_string()))
        .unwrap_or_default();
    let children: Vec<&Command> = command
        .get_subcommands()
        .filter(|child| child.get_name() != "help" && !child.is_hide_set())
        .collect();
    let usage = match &children[..] {
        [] => command.clone().render_usage().to_string(),
        _ => format!("Usage: {path} [OPTIONS] <COMMAND>"),
    };
    let usage = usage.trim_start_matches("Usage: ").trim();
    text.push_str(&format!(
        "## {path}\n\n{about}.\n\n```text\n{usage}\n```\n\n"
    ));
    text.push_str(&table(
        ["Command", "Purpose"],
        children.iter().map(|child| {
            let about = child
                .get_about()
                .map(ToString::to_string)
                .unwrap_or_default();
            let anchor = format!("{path}-{}", child.get_name()).replace(' ', "-");
            [format!("[`{}`](#{anchor})", child.get_name()), cell(&about)]
        }),
    ));
    text.push_str(&table(
        ["Option", "Default", "Environment", "Meaning"],
        options(command)
            .into_iter()
            .filter(|arg| !arg.is_global_set() || !path.contains(' '))
            .map(|arg| {
                let env = arg
                    .get_env()
                    .map(|env| format!("`{}`", env.to_string_lossy()));
                let help = arg.get_long_help().or(arg.get_help());
                let mut help = help.map(|help| cell(&help.to_string())).unwrap_or_default();
                let values: Vec<String> = arg
                    .get_possible_values()
                    .iter()
                    .filter(|value| !value.is_hide_set())
                    .map(|value| format!("`{}`", value.get_name()))
                    .collect();
                if !values.is_empty() && arg.get_action().takes_values() {
                    help.push_str(&format!(" ({})", values.join(", ")));
                }
                [
                    format!("`{}`", name(arg)),
                    default(arg),
                    env.unwrap_or_default(),
                    help,
                ]
            }),
    ));
    for child in children {
        section(child, &format!("{path} {}", child.get_name()), text);
    }
}

/// Name of an option with the names of its values.
fn name(arg: &Arg) -> String {
    let values = if arg.get_action().takes_values() {
        arg.get_value_names().unwrap_or_default().join(" ")
    } else {
        String::new()
    };
    let flags = match (arg.get_short(), arg.get_long()) {
        (Some(short), Some(long)) => format!("-{short}, --{long}"),
        (None, Some(long)) => format!("--{long}"),
        (Some(short), None) => format!("-{short}"),
        (None, None) => return values,
    };
    format!("{flags} {values}").trim().to_owned()
}
