//! Commands of both programs, from their definitions.

use clap::{Arg, ArgAction, Command};

use crate::{cell, table};

/// Writes the page.
pub(crate) fn body() -> String {
    let mut text = "`--help` of each command says the same. \
        Exit code 0: stopped as asked. 1: the command failed while it ran, and the message says what \
        to do. 2: the configuration or the command line is wrong, or `--yes` is missing for a command \
        that repeats or deletes something; at a terminal such a command asks. 130: interrupted, with `kubectl observers`. A command for a listener, a dead letter or a job that does \
        not exist ends with 1.\n\n"
        .to_owned();
    for mut program in [listener::cli::command(), operator::cli::command()] {
        program.build();
        section(&program, program.get_name(), &mut text);
    }
    plugin(&mut text);
    text
}

/// Writes of the plugin what it does itself. The other commands are those of the listener's program.
fn plugin(text: &mut String) {
    let mut plugin = listener::cli::kubectl::command();
    plugin.build();
    let same = listener::cli::command();
    let is_same = |child: &&Command| {
        child.get_name() != "status" && same.find_subcommand(child.get_name()).is_some()
    };
    let path = "kubectl observers";
    head(&plugin, path, "kubectl observers [OPTIONS] <COMMAND>", text);
    let shown = || shown(&plugin);
    text.push_str(&table(
        ["Command", "Purpose"],
        shown().map(|child| {
            let name = child.get_name();
            let program = if is_same(&child) {
                "observer-listener"
            } else {
                "kubectl-observers"
            };
            [format!("[`{name}`](#{program}-{name})"), about(child)]
        }),
    ));
    option_table(&plugin, true, text);
    for child in shown().filter(|child| !is_same(child)) {
        section(child, &format!("{path} {}", child.get_name()), text);
    }
}

fn shown(command: &Command) -> impl Iterator<Item = &Command> {
    let children = command.get_subcommands();
    children.filter(|child| child.get_name() != "help" && !child.is_hide_set())
}

fn about(command: &Command) -> String {
    let about = command.get_about().map(ToString::to_string);
    cell(&about.unwrap_or_default())
}

fn head(command: &Command, path: &str, usage: &str, text: &mut String) {
    let about = command.get_long_about().or(command.get_about());
    let about = about
        .map(|about| cell(&about.to_string()))
        .unwrap_or_default();
    text.push_str(&format!(
        "## {path}\n\n{about}.\n\n```text\n{usage}\n```\n\n"
    ));
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
    let children: Vec<&Command> = shown(command).collect();
    let usage = match &children[..] {
        [] => command.clone().render_usage().to_string(),
        _ => format!("Usage: {path} [OPTIONS] <COMMAND>"),
    };
    let usage = usage.trim_start_matches("Usage: ").trim();
    head(command, path, usage, text);
    text.push_str(&table(
        ["Command", "Purpose"],
        children.iter().map(|child| {
            let anchor = format!("{path}-{}", child.get_name()).replace(' ', "-");
            [format!("[`{}`](#{anchor})", child.get_name()), about(child)]
        }),
    ));
    option_table(command, !path.contains(' '), text);
    for child in children {
        section(child, &format!("{path} {}", child.get_name()), text);
    }
}

/// Writes the options of a command; those of all commands `with_global` only.
fn option_table(command: &Command, with_global: bool, text: &mut String) {
    text.push_str(&table(
        ["Option", "Default", "Environment", "Meaning"],
        options(command)
            .into_iter()
            .filter(|arg| !arg.is_global_set() || with_global)
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
