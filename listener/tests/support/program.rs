//! The real program as a command that runs to its end.

use std::process::Stdio;

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
    let child = Command::new(program())
        .args(args)
        .args(["--log-format", "text"])
        .env_remove("OBSERVER_DATABASE_URL")
        .env("RUST_LOG", "debug")
        .envs(variables.iter().copied())
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let output = comes(&format!("the end of {args:?}"), child).await.unwrap();
    Ended {
        code: output.status.code(),
        out: String::from_utf8(output.stdout).unwrap(),
        err: String::from_utf8(output.stderr).unwrap(),
    }
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
