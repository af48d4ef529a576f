//! The real program as a command that runs to its end.

use std::path::Path;
use std::process::{Output, Stdio};

use tokio::process::Command;

use super::listener::program;
use super::{TestDb, comes};

/// What a command came to.
pub(crate) struct Ended {
    /// Exit code; `None` where a signal ended it.
    pub(crate) code: Option<i32>,
    /// Standard output.
    pub(crate) out: String,
    /// Standard error.
    pub(crate) err: String,
}

/// Runs the program to its end.
pub(crate) async fn command(args: &[&str]) -> Ended {
    command_by(args, &[]).await
}

/// Runs the program to its end, with these variables.
pub(crate) async fn command_by(args: &[&str], variables: &[(&str, &str)]) -> Ended {
    end(args, variables, Stdio::null()).await
}

/// Runs the program to its end, with this file as its standard input.
pub(crate) async fn command_reading(args: &[&str], input: &Path) -> Ended {
    let input = std::fs::File::open(input).unwrap();
    end(args, &[], input.into()).await
}

async fn end(args: &[&str], variables: &[(&str, &str)], input: Stdio) -> Ended {
    let child = Command::new(program())
        .args(args)
        .args(["--log-format", "text"])
        .env_remove("OBSERVER_DATABASE_URL")
        .env("RUST_LOG", "debug")
        .envs(variables.iter().copied())
        .stdin(input)
        .kill_on_drop(true)
        .output();
    ended(args, child).await
}

/// Waits until a program ends that was started with these arguments.
pub(crate) async fn ended(
    args: &[&str],
    child: impl Future<Output = std::io::Result<Output>>,
) -> Ended {
    let output = comes(&format!("the end of {args:?}"), child).await.unwrap();
    Ended {
        code: output.status.code(),
        out: String::from_utf8(output.stdout).unwrap(),
        err: String::from_utf8(output.stderr).unwrap(),
    }
}

/// Runs the program on a terminal of unknown width, with these variables, and returns the lines that it
/// shows.
pub(crate) async fn on_terminal(args: &[&str], variables: &[(&str, &str)]) -> Vec<String> {
    let quoted = args.iter().map(|one| format!("'{one}'"));
    let line = format!("'{}' {}", program(), quoted.collect::<Vec<_>>().join(" "));
    let child = Command::new("script")
        .args(["-qec", &line, "/dev/null"])
        .env("TERM", "xterm")
        .env_remove("NO_COLOR")
        .env_remove("OBSERVER_DATABASE_URL")
        .envs(variables.iter().copied())
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let output = comes(&format!("the end of {args:?}"), child).await.unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let lines = text
        .lines()
        .map(|line| line.trim_end_matches('\r').to_owned());
    lines.collect()
}

/// What `dlq` prints of the listener `test`, which has to go well.
pub(crate) async fn dlq(db: &TestDb, args: &[&str]) -> String {
    let of = ["--listener", "test", "--database-url", &db.url];
    command(&[&["dead-letters"], args, &of].concat()).await.ok()
}

impl Ended {
    /// All it said, for the message of a test that fails.
    pub(crate) fn said(&self) -> String {
        let Self { code, out, err } = self;
        format!("exit code {code:?}\n{out}\n{err}")
    }

    /// Standard output of a command that went well.
    pub(crate) fn ok(self) -> String {
        assert_eq!(self.code, Some(0), "{}", self.said());
        self.out
    }
}
