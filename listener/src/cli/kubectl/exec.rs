//! A command that runs in a pod of a listener, through the API server's `pods/exec`, and is seen as if it ran here.
//!
//! Standard input stays open for as long as the plugin wants the command to run: once it ends, the command ends
//! too, even if the connection breaks off.

use std::io::ErrorKind;
use std::process::ExitCode;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Status;
use kube::ResourceExt;
use kube::api::{AttachParams, AttachedProcess};
use kube::client::UpgradeConnectionError;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::timeout;

use super::cluster::{Cluster, failure};
use crate::cli::terminal::{Terminal, read_line};
use crate::cli::{CliError, EXIT_INTERRUPTED};

/// Container of a listener's pod with its program, and where that is.
const CONTAINER: (&str, &str) = ("listener", "/usr/local/bin/observer-listener");

/// How long the API server and the node may take to begin a command.
const BEGIN_TIMEOUT: Duration = Duration::from_secs(30);

/// How long what has come is still printed after the connection broke.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(1);

/// How long the command in the pod may take to end after an interrupt.
const END_TIMEOUT: Duration = Duration::from_secs(3);

/// Bytes of output that are held at once.
const BUFFER: usize = 64 * 1024;

/// Runs a command in a pod. Returns its exit code, or 130 after an interrupt. If it may ask something, what is
/// typed here is passed on.
pub(super) async fn run(
    cluster: &Cluster,
    pod: &Pod,
    command: Vec<String>,
    may_ask: bool,
) -> Result<ExitCode, CliError> {
    let (mut interrupt, mut terminate) = (
        signal(SignalKind::interrupt())?,
        signal(SignalKind::terminate())?,
    );
    let terminal = Terminal {
        input: may_ask && Terminal::own().input,
        ..Terminal::own()
    };
    let words = [CONTAINER.1.to_owned(), format!("--relayed={terminal}")];
    let words: Vec<String> = words.into_iter().chain(command).collect();
    let parameters = AttachParams::default()
        .container(CONTAINER.0)
        .stdin(true)
        .stdout(true)
        .stderr(true)
        .max_stdout_buf_size(BUFFER);
    let api = cluster.api::<Pod>();
    let name = pod.name_any();
    let mut process = tokio::select! {
        begun = timeout(BEGIN_TIMEOUT, api.exec(&name, words, &parameters)) => match begun {
            Ok(begun) => begun.map_err(|error| refused(&error, cluster, &name))?,
            Err(_) => {
                return Err(anyhow::anyhow!(
                    "the API server has not begun the command in pod {name} within {} s",
                    BEGIN_TIMEOUT.as_secs()
                )
                .into());
            }
        },
        _ = interrupt.recv() => return Ok(ExitCode::from(EXIT_INTERRUPTED)),
        _ = terminate.recv() => return Ok(ExitCode::from(EXIT_INTERRUPTED)),
    };
    let mut input = process.stdin();
    let ended = streamed(process);
    tokio::pin!(ended);
    let typing = async {
        if terminal.input
            && let Some(input) = &mut input
        {
            // Where it fails the command has ended.
            let _passed = pass_on(input).await;
        }
        std::future::pending::<()>().await;
    };
    tokio::select! {
        ended = &mut ended => return ended,
        () = typing => {}
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    if let Some(mut input) = input {
        // It has ended by itself where this fails.
        let _closed = input.shutdown().await;
    }
    tokio::select! {
        _ended = timeout(END_TIMEOUT, ended) => {}
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    Ok(ExitCode::from(EXIT_INTERRUPTED))
}

/// Passes on what is typed, line by line. The end of standard input is passed on as one empty line: it is no
/// answer, which means no.
async fn pass_on(mut input: impl AsyncWrite + Unpin) -> std::io::Result<()> {
    loop {
        let line = read_line().await;
        let is_last = line.is_none();
        let line = format!("{}\n", line.unwrap_or_default());
        input.write_all(line.as_bytes()).await?;
        if is_last {
            return Ok(());
        }
    }
}

/// Copies what a command writes until it ends or the connection breaks, and returns its exit code.
async fn streamed(mut process: AttachedProcess) -> Result<ExitCode, CliError> {
    let (out, err, status) = (process.stdout(), process.stderr(), process.take_status());
    let copying = async {
        tokio::try_join!(
            copy(out, tokio::io::stdout()),
            copy(err, tokio::io::stderr())
        )?;
        Ok::<_, std::io::Error>(())
    };
    let (copied, broken) = copied(copying, process.join()).await;
    match copied {
        // The reader of the output has closed it, as `head` does.
        Err(error) if error.kind() == ErrorKind::BrokenPipe => return Err(CliError::Closed),
        copied => copied?,
    }
    if let Some(error) = broken {
        return Err(anyhow::anyhow!("the connection to the pod broke off: {error}").into());
    }
    let status = match status {
        Some(status) => status.await,
        None => None,
    };
    status.map_or_else(
        || Err(anyhow::anyhow!("the connection to the pod ended before the command did").into()),
        |status| exit_code(&status).map(ExitCode::from),
    )
}

/// Copies until the streams end. They do not end if the connection breaks: then what has come by then is copied,
/// and why it broke is returned too.
async fn copied<E>(
    copying: impl Future<Output = std::io::Result<()>>,
    connection: impl Future<Output = Result<(), E>>,
) -> (std::io::Result<()>, Option<E>) {
    tokio::pin!(copying);
    tokio::select! {
        copied = &mut copying => (copied, None),
        ended = connection => match ended {
            Ok(()) => (copying.await, None),
            Err(error) => {
                let copied = timeout(DRAIN_TIMEOUT, copying).await;
                (copied.unwrap_or(Ok(())), Some(error))
            }
        },
    }
}

async fn copy(
    from: Option<impl AsyncRead + Unpin>,
    mut to: impl AsyncWrite + Unpin,
) -> std::io::Result<()> {
    let Some(mut from) = from else { return Ok(()) };
    let mut buffer = vec![0; BUFFER];
    loop {
        let read = from.read(&mut buffer).await?;
        if read == 0 {
            return Ok(());
        }
        to.write_all(&buffer[..read]).await?;
        to.flush().await?;
    }
}

/// Returns the exit code that a status tells, or why the command could not run.
fn exit_code(status: &Status) -> Result<u8, CliError> {
    if status.status.as_deref() == Some("Success") {
        return Ok(0);
    }
    let causes = status
        .details
        .iter()
        .flat_map(|details| details.causes.iter().flatten());
    let code = causes
        .into_iter()
        .find(|cause| cause.reason.as_deref() == Some("ExitCode"))
        .and_then(|cause| cause.message.as_deref()?.parse::<i32>().ok());
    match code {
        Some(code) => Ok(u8::try_from(code).unwrap_or(1)),
        None => Err(anyhow::anyhow!(
            "the command cannot run in the pod: {}",
            status.message.as_deref().unwrap_or("no reason is told")
        )
        .into()),
    }
}

/// Describes why a command was not begun.
fn refused(error: &kube::Error, cluster: &Cluster, pod: &str) -> CliError {
    match error {
        kube::Error::UpgradeConnection(UpgradeConnectionError::ProtocolSwitch(code)) => {
            let namespace = &cluster.namespace;
            match code.as_u16() {
                403 => anyhow::anyhow!(
                    "you may not do this: it takes the verbs get and create on the resource pods/exec in namespace \
                     {namespace}"
                ),
                404 => anyhow::anyhow!("pod {pod} of namespace {namespace} has just ended; try again"),
                _ => anyhow::anyhow!("the API server cannot run a command in pod {pod}: {code}"),
            }
            .into()
        }
        error => failure(error),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]

    use serde_json::json;

    use super::*;

    #[tokio::test]
    async fn what_has_come_is_copied_when_the_connection_breaks() {
        for connection in [Ok(()), Err("reset")] {
            let (from, mut to) = tokio::io::simplex(BUFFER);
            to.write_all(b"half").await.unwrap();
            if connection.is_ok() {
                to.shutdown().await.unwrap();
            }
            let mut printed = Vec::new();
            let copying = copy(Some(from), &mut printed);
            let (copied, broken) = copied(copying, async { connection }).await;
            copied.unwrap();
            assert_eq!((&printed[..], broken), (&b"half"[..], connection.err()));
        }
    }

    #[test]
    fn the_exit_code_is_that_of_the_command() {
        let of = |status: serde_json::Value| exit_code(&serde_json::from_value(status).unwrap());
        assert_eq!(of(json!({"status": "Success"})).unwrap(), 0);
        let failed = |code: &str| {
            json!({"status": "Failure", "reason": "NonZeroExitCode", "details": {"causes":
                [{"reason": "Other", "message": "7"}, {"reason": "ExitCode", "message": code}]}})
        };
        assert_eq!(of(failed("2")).unwrap(), 2);
        assert_eq!(of(failed("130")).unwrap(), 130);
        // A signal ended it.
        assert_eq!(of(failed("-1")).unwrap(), 1);
        for wrong in [
            failed("two"),
            json!({"status": "Failure", "message": "no such container"}),
            json!({}),
        ] {
            assert!(of(wrong.clone()).is_err(), "{wrong}");
        }
    }
}
