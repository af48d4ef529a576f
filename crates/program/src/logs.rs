//! Logging to standard error: text on a terminal, JSON elsewhere.

use std::io::{IsTerminal, Write};
use std::sync::OnceLock;

use clap::ValueEnum;
use tracing_subscriber::filter::Directive;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, Registry, reload};

use crate::lines::ReaderLayer;
use crate::writer::LogWriter;

/// Format of log lines.
#[derive(Clone, Copy, Debug, Default, ValueEnum)]
pub enum LogFormat {
    /// Text on a terminal, JSON elsewhere.
    #[default]
    Auto,
    /// Text for people.
    Text,
    /// JSON, one object per line.
    Json,
}

static WRITER: OnceLock<LogWriter> = OnceLock::new();

/// What replaces the filter of a log that was started.
static FILTER: OnceLock<FilterHandle> = OnceLock::new();

struct FilterHandle {
    /// The filter of the start.
    started: String,
    handle: reload::Handle<EnvFilter, Registry>,
}

/// Why the filter of the log cannot be replaced.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum FilterError {
    /// A part of it is wrong.
    #[error(
        "part {number}, `{part}`, is no filter of the log: write a level (error, warn, info, debug, trace, off) or \
         target=level, as in info,observer::attempt=debug"
    )]
    Part {
        /// Its place among the parts, from 1.
        number: usize,
        /// The part.
        part: String,
    },
    /// There is no log.
    #[error("this process has no log whose filter could be replaced")]
    NotStarted,
}

/// Parses a filter, which must have no wrong part.
fn parse(text: &str) -> Result<EnvFilter, FilterError> {
    let mut filter = EnvFilter::default();
    for (number, part) in parts(text).into_iter().enumerate() {
        let wrong = || FilterError::Part {
            number: number + 1,
            part: part.to_owned(),
        };
        let level = part.rsplit_once('=').map_or(part, |(_, level)| level);
        // Without this a level that is mistyped would be a target.
        let levels = ["error", "warn", "info", "debug", "trace", "off"];
        let is_level = levels.iter().any(|one| level.eq_ignore_ascii_case(one));
        if !is_level && !part.ends_with(']') {
            return Err(wrong());
        }
        let directive: Directive = part.parse().map_err(|_| wrong())?;
        filter = filter.add_directive(directive);
    }
    Ok(filter)
}

/// Returns the parts of a filter, which commas separate outside of brackets.
fn parts(text: &str) -> Vec<&str> {
    let mut depth = 0_usize;
    let at_comma = |c: char| {
        match c {
            '[' | '{' => depth += 1,
            ']' | '}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        c == ',' && depth == 0
    };
    text.split(at_comma).map(str::trim).collect()
}

/// Checks a filter of the log without using it.
pub fn check_filter(text: &str) -> Result<(), FilterError> {
    parse(text).map(drop)
}

/// Replaces what is logged, or goes back to the filter of the start.
pub fn set_filter(text: Option<&str>) -> Result<(), FilterError> {
    let handle = FILTER.get().ok_or(FilterError::NotStarted)?;
    let filter = match text {
        Some(text) => parse(text)?,
        None => EnvFilter::new(&handle.started),
    };
    let replaced = handle.handle.reload(filter);
    replaced.map_err(|_| FilterError::NotStarted)
}

/// Starts logging to standard error with the filter of `RUST_LOG`, or else `by_default`.
pub fn start(format: LogFormat, by_default: &str) -> std::io::Result<()> {
    let writer = if let Some(writer) = WRITER.get() {
        writer.clone()
    } else {
        let new = LogWriter::stderr()?;
        WRITER.get_or_init(|| new).clone()
    };
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(by_default));
    let terminal = std::io::stderr().is_terminal();
    let json = match format {
        LogFormat::Auto => !terminal,
        LogFormat::Text => false,
        LogFormat::Json => true,
    };
    let plain = std::env::var_os("NO_COLOR").is_some_and(|set| !set.is_empty());
    let started = filter.to_string();
    let (filter, handle) = reload::Layer::new(filter);
    let lines = tracing_subscriber::fmt::layer()
        .with_ansi(terminal && !plain)
        // It would be told on standard error, by a print that panics where nobody reads.
        .log_internal_errors(false)
        .with_writer(writer);
    let lines = if json {
        lines.json().flatten_event(true).boxed()
    } else {
        lines.boxed()
    };
    // A second start in one process, as in tests, keeps the first.
    let initialised = tracing_subscriber::registry()
        .with(filter)
        .with(lines)
        .with(ReaderLayer)
        .try_init();
    if initialised.is_ok() {
        FILTER.get_or_init(|| FilterHandle { started, handle });
    }
    Ok(())
}

/// Writes a text to standard error, between the lines of the log. That nobody reads is no error.
pub fn say(text: &str) {
    match WRITER.get() {
        Some(writer) => writer.push(text.as_bytes()),
        None => {
            let _nobody_reads = std::io::stderr().write_all(text.as_bytes());
        }
    }
}

/// Waits until all that was logged is written, unless the reader hangs: for the end of the process.
pub fn flush() {
    if let Some(writer) = WRITER.get() {
        writer.flush();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrong_parts_are_named_with_their_place() {
        for right in [
            "info",
            "INFO",
            "off",
            "info,observer::attempt=debug",
            "warn,sqlx=off, hyper=trace",
            "info,observer[attempt{a=1,b=2}]=debug",
        ] {
            assert_eq!(check_filter(right), Ok(()), "{right}");
        }
        for (wrong, number, part) in [
            ("", 1, ""),
            ("loud", 1, "loud"),
            ("info,", 2, ""),
            ("info,observer=loud", 2, "observer=loud"),
            ("info,observer=debug,a=b=c", 3, "a=b=c"),
            ("info,[debug", 2, "[debug"),
        ] {
            let part = part.to_owned();
            let error = FilterError::Part { number, part };
            assert_eq!(check_filter(wrong), Err(error), "{wrong}");
        }
    }
}
