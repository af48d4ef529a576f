//! A command of the real program that goes on until it is stopped, with the lines that it prints.

use std::process::{ExitStatus, Stdio};

use testkit::wait::watched;
use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::watch;

use super::comes;
use super::listener::program;

/// A running command.
pub(crate) struct Follower {
    child: Child,
    out: watch::Receiver<Vec<String>>,
    err: watch::Receiver<Vec<String>>,
}

/// Collects lines until the end.
fn lines(from: impl AsyncRead + Unpin + Send + 'static) -> watch::Receiver<Vec<String>> {
    let (sender, receiver) = watch::channel(Vec::new());
    tokio::spawn(async move {
        let mut lines = BufReader::new(from).lines();
        while let Ok(Some(line)) = lines.next_line().await {
            sender.send_modify(|all| all.push(line));
        }
    });
    receiver
}

impl Follower {
    /// Starts the program, with the files that it is given.
    pub(crate) fn start(args: &[&str]) -> Self {
        let mut program = Command::new(program());
        program.env_remove("OBSERVER_DATABASE_URL");
        Self::spawn(program, args)
    }

    /// Starts the program on a database.
    pub(crate) fn of_database(url: &str, args: &[&str]) -> Self {
        let mut program = Command::new(program());
        program.env("OBSERVER_DATABASE_URL", url);
        Self::spawn(program, args)
    }

    fn spawn(mut program: Command, args: &[&str]) -> Self {
        let mut child = program
            .args(args)
            .env("RUST_LOG", "warn")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        Self {
            out: lines(child.stdout.take().unwrap()),
            err: lines(child.stderr.take().unwrap()),
            child,
        }
    }

    /// Everything printed so far.
    pub(crate) fn printed(&self) -> Vec<String> {
        self.out.borrow().clone()
    }

    /// Everything said on standard error so far.
    pub(crate) fn said(&self) -> String {
        self.err.borrow().join("\n")
    }

    /// Waits until the lines are as they should be.
    pub(crate) async fn prints<T>(
        &mut self,
        what: &str,
        found: impl Fn(&[String]) -> Option<T>,
    ) -> T {
        let err = self.err.clone();
        let found = watched(
            &mut self.out,
            |lines| found(lines),
            Vec::len,
            |lines| format!("{what}\n{}\n{}", lines.join("\n"), err.borrow().join("\n")),
        );
        let found = found.await;
        found.unwrap_or_else(|| panic!("{what} before it ends:\n{}", self.said()))
    }

    /// Waits for a text on standard error.
    pub(crate) async fn says(&mut self, text: &str) {
        let said = watched(
            &mut self.err,
            |lines| lines.iter().any(|line| line.contains(text)).then_some(()),
            Vec::len,
            |lines| format!("{text:?} in\n{}", lines.join("\n")),
        );
        assert!(said.await.is_some(), "{text:?} in:\n{}", self.said());
    }

    /// Interrupts it as Ctrl-C does, and waits for its end.
    pub(crate) async fn interrupted(&mut self) -> ExitStatus {
        let pid = self.child.id().unwrap().to_string();
        let sent = Command::new("kill").args(["-INT", &pid]).status().await;
        assert!(sent.unwrap().success());
        comes("its end", self.child.wait()).await.unwrap()
    }
}
