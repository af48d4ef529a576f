//! An orderly stop on a signal.

use std::io;
use std::process;

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::logs;

/// Exit code after a second signal, as shells give it for an interrupt.
const EXIT_INTERRUPTED: i32 = 130;

/// Returns a token that the first SIGTERM or SIGINT cancels; the second one ends the process at once.
pub fn stop_on_signal() -> io::Result<CancellationToken> {
    let stop = CancellationToken::new();
    let (mut term, mut int) = (
        signal(SignalKind::terminate())?,
        signal(SignalKind::interrupt())?,
    );
    let token = stop.clone();
    // It runs for as long as the process, and cannot fail.
    tokio::spawn(async move {
        tokio::select! { _ = term.recv() => {}, _ = int.recv() => {} }
        tracing::info!("shutting down: draining what is in flight; a second signal exits at once");
        token.cancel();
        tokio::select! { _ = term.recv() => {}, _ = int.recv() => {} }
        logs::flush();
        process::exit(EXIT_INTERRUPTED);
    });
    Ok(stop)
}
