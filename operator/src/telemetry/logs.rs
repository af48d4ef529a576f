//! Where log lines go and how they look: text on a terminal, JSON elsewhere.

use std::io::IsTerminal;

use clap::ValueEnum;
use tracing_subscriber::EnvFilter;

/// Form of the log lines.
#[derive(Clone, Copy, Debug, Default, ValueEnum)]
pub enum LogFormat {
    /// Text on a terminal, JSON elsewhere.
    #[default]
    Auto,
    /// For people.
    Text,
    /// For machines, one object a line.
    Json,
}

/// Begins to log to standard error what `RUST_LOG` asks for, or else what `by_default` does.
pub fn start(format: LogFormat, by_default: &str) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(by_default));
    let terminal = std::io::stderr().is_terminal();
    let json = match format {
        LogFormat::Auto => !terminal,
        LogFormat::Text => false,
        LogFormat::Json => true,
    };
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(terminal)
        // It would be told on standard error, by a print that panics where nobody reads.
        .log_internal_errors(false)
        .with_writer(std::io::stderr);
    // A second start in one process, as in tests, keeps the first.
    let _kept = if json {
        builder.json().flatten_event(true).try_init()
    } else {
        builder.try_init()
    };
}
