//! Output of commands. A closed pipe, as of `head`, ends a command without an error.

use std::fmt::Arguments;
use std::io::{ErrorKind, IsTerminal, Write};

use chrono::{DateTime, SecondsFormat, Utc};
use clap::ValueEnum;
use program::logs;

use super::CliError;

/// How soon a running listener acts on a command.
pub(super) const PICKUP_NOTE: &str = "a running listener picks them up within seconds, or once the circuit breaker of \
    their endpoint lets them through (`status` shows circuit breakers that are not closed)";

/// Format of what a command prints.
#[derive(Clone, Copy, Debug, Default, ValueEnum)]
pub(super) enum OutputFormat {
    /// Columns
    #[default]
    Table,
    /// JSON: one document, or one on each line where a command does not end by itself
    Json,
}

/// Writes a formatted line to standard output; an error ends the command.
macro_rules! say {
    ($($text:tt)*) => { $crate::cli::output::line(format_args!($($text)*)) };
}
pub(super) use say;

/// Writes a line to standard output.
pub(super) fn line(text: Arguments<'_>) -> Result<(), CliError> {
    match writeln!(std::io::stdout().lock(), "{text}") {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Err(CliError::Closed),
        Err(error) => Err(anyhow::anyhow!("cannot write to standard output: {error}").into()),
    }
}

/// Lets a command that repeats or deletes something continue only with `--yes`; otherwise fails with its
/// effect.
pub(super) fn confirm(yes: bool, effect: &str) -> Result<(), CliError> {
    if yes {
        logs::say(&format!("{effect}\n"));
        return Ok(());
    }
    Err(CliError::Config(format!(
        "{effect}. Nothing was done; add --yes to do it"
    )))
}

/// Whether standard output shows colour: a terminal does, unless `NO_COLOR` is set or it is a dumb one.
pub(super) fn has_colour() -> bool {
    let is_set = |name: &str| std::env::var_os(name).is_some_and(|set| !set.is_empty());
    let is_dumb = std::env::var_os("TERM").is_some_and(|kind| kind == "dumb");
    std::io::stdout().is_terminal() && !is_set("NO_COLOR") && !is_dumb
}

/// Formats a count with its noun: `1 event`, `2 events`.
pub(super) fn counted(count: u64, one: &str, many: &str) -> String {
    let noun = if count == 1 { one } else { many };
    format!("{count} {noun}")
}

/// Formats a time as all commands print and parse it: `2026-03-01T12:00:00Z`.
pub(super) fn time(at: DateTime<Utc>) -> String {
    at.to_rfc3339_opts(SecondsFormat::Secs, true)
}
