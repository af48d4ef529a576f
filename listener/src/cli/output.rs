//! Output of commands. A closed pipe, as of `head`, ends a command without an error.

use std::fmt::Arguments;
use std::io::{ErrorKind, Write};

use chrono::{DateTime, SecondsFormat, Utc};
use clap::ValueEnum;
use program::logs;

use super::CliError;
use super::terminal::{read_line, terminal};

/// How soon a running listener acts on a command.
pub(super) const PICKUP_NOTE: &str = "a running listener picks them up within seconds, or once the circuit breaker of \
    their endpoint lets them through (`status` shows circuit breakers that are not closed)";

/// Format of what a command prints.
#[derive(Clone, Copy, Debug, Default, ValueEnum)]
pub(super) enum OutputFormat {
    /// Columns
    #[default]
    Table,
    /// JSON: one document, or one on each line where there is no end or no bound
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

/// Lets a command that repeats or deletes something continue with `--yes`, or if whoever sits at the terminal
/// says so; otherwise fails with its effect.
pub(super) async fn confirm(yes: bool, effect: &str) -> Result<(), CliError> {
    if yes {
        logs::say(&format!("{effect}\n"));
        return Ok(());
    }
    // A question that nobody sees is none.
    if !terminal().input || !terminal().errors {
        return Err(CliError::Config(format!(
            "{effect}. Nothing was done; add --yes to do it"
        )));
    }
    logs::say(&format!("{effect}. Do it? [y/N] "));
    let answer = read_line().await.unwrap_or_default();
    let answer = answer.trim().to_ascii_lowercase();
    if matches!(answer.as_str(), "y" | "yes") {
        return Ok(());
    }
    Err(anyhow::anyhow!("nothing was done").into())
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
