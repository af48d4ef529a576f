//! Commands that go on until they are interrupted.

use std::process;
use std::time::Duration;

use chrono::Utc;
use program::logs;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use super::CliError;
use super::output::{OutputFormat, say, time};
use super::terminal::terminal;

/// Moves the cursor to the top left and clears the screen, and what was scrolled out of it.
const CLEAR: &str = "\x1b[H\x1b[2J\x1b[3J";

/// How long a command may take to end after an interrupt, such as while nobody reads its output.
const END_TIMEOUT: Duration = Duration::from_secs(1);

/// Returns a token that Ctrl-C or SIGTERM cancels. A command that hangs then ends with code 0 as well: it has
/// nothing to save.
pub(super) fn stop_on_interrupt() -> std::io::Result<CancellationToken> {
    let stop = CancellationToken::new();
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let token = stop.clone();
    // It runs for as long as the process, and cannot fail.
    tokio::spawn(async move {
        tokio::select! { _ = interrupt.recv() => {}, _ = terminate.recv() => {} }
        token.cancel();
        tokio::time::sleep(END_TIMEOUT).await;
        logs::flush();
        process::exit(0);
    });
    Ok(stop)
}

/// Prints what `look` returns again and again until an interrupt: on a terminal in the place of what was
/// there, else below it. What fails while it runs is told, and tried again.
pub(super) async fn repeat(
    interval: Duration,
    output: OutputFormat,
    mut look: impl AsyncFnMut() -> Result<String, CliError>,
) -> Result<(), CliError> {
    let stop = stop_on_interrupt()?;
    let in_place = matches!(output, OutputFormat::Table) && terminal().width.is_some();
    let mut is_first = true;
    loop {
        let looked = tokio::select! {
            looked = look() => looked,
            () = stop.cancelled() => return Ok(()),
        };
        let text = match looked {
            Ok(text) => Some(text),
            Err(CliError::Run(error)) if in_place => Some(format!("error: {error}")),
            Err(CliError::Run(error)) => {
                logs::say(&format!("error: {error}\n"));
                None
            }
            Err(error) => return Err(error),
        };
        match (text, output) {
            (None, _) => {}
            (Some(text), OutputFormat::Json) => say!("{text}")?,
            (Some(text), OutputFormat::Table) if in_place => {
                say!("{CLEAR}{}\n{text}", time(Utc::now()))?;
            }
            (Some(text), OutputFormat::Table) => {
                let gap = if is_first { "" } else { "\n" };
                say!("{gap}{}\n{text}", time(Utc::now()))?;
                is_first = false;
            }
        }
        tokio::select! {
            () = tokio::time::sleep(interval) => {}
            () = stop.cancelled() => return Ok(()),
        }
    }
}
