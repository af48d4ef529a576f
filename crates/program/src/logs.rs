//! Logging to standard error: text on a terminal, JSON elsewhere.

use std::io::{IsTerminal, Write};
use std::sync::OnceLock;

use clap::ValueEnum;
use tracing_subscriber::EnvFilter;

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
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(terminal && !plain)
        // It would be told on standard error, by a print that panics where nobody reads.
        .log_internal_errors(false)
        .with_writer(writer);
    // A second start in one process, as in tests, keeps the first.
    let _kept = if json {
        builder.json().flatten_event(true).try_init()
    } else {
        builder.try_init()
    };
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
