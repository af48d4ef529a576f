//! What commands print: all of it goes this way, so that a reader who has enough, as `head` has,
//! ends a command quietly.

use std::fmt::Arguments;
use std::io::{ErrorKind, Write};

use chrono::{DateTime, SecondsFormat, Utc};
use program::logs;

use super::CliError;

/// Writes a line to standard output; an error where the command is to end.
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

/// Lets a command go on that repeats or drops something only where the user has said so, and says
/// what it would do otherwise.
pub(super) fn agreed(yes: bool, what: &str) -> Result<(), CliError> {
    if yes {
        logs::say(&format!("{what}\n"));
        return Ok(());
    }
    Err(CliError::Config(format!(
        "{what}. Nothing was done; add --yes to do it"
    )))
}

/// A count with what is counted: `1 event`, `2 events`.
pub(super) fn counted(count: u64, one: &str, many: &str) -> String {
    let noun = if count == 1 { one } else { many };
    format!("{count} {noun}")
}

/// A time as all commands write it, and read it too: `2026-03-01T12:00:00Z`.
pub(super) fn time(at: DateTime<Utc>) -> String {
    at.to_rfc3339_opts(SecondsFormat::Secs, true)
}
