//! Runs a command with a Postgres server that is shared by all processes of the command:
//!
//! ```sh
//! with-postgres cargo nextest run
//! ```
//!
//! The command finds the server's URL in its environment. The server ends with this program.

use std::process::ExitCode;

use anyhow::Context;
use observer_testkit::database::{SERVER_URL, binaries};
use observer_testkit::servers::postgres::PrivateServer;
use tokio::process::{Child, Command};
use tokio::signal::unix::{SignalKind, signal};

/// Has the command end by itself, with all that it started.
fn pass_on(command: &Child) {
    if let Some(pid) = command.id() {
        // It may be gone already.
        let _ = std::process::Command::new("kill")
            .arg(pid.to_string())
            .status();
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<ExitCode> {
    let mut arguments = std::env::args_os().skip(1);
    let program = arguments
        .next()
        .context("usage: with-postgres COMMAND [ARGUMENT...]")?;
    let server = PrivateServer::start(&binaries()).await?;
    // A terminal interrupts the command too, which then ends by itself.
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut command = Command::new(&program)
        .args(arguments)
        .env(SERVER_URL, server.url("postgres"))
        .kill_on_drop(true)
        .spawn()
        .with_context(|| format!("cannot start {}", program.display()))?;
    let status = loop {
        tokio::select! {
            status = command.wait() => break status?,
            _ = interrupt.recv() => {}
            _ = terminate.recv() => pass_on(&command),
        }
    };
    let code = status.code().and_then(|code| u8::try_from(code).ok());
    Ok(ExitCode::from(code.unwrap_or(1)))
}
