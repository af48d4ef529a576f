//! A server that takes emails: aiosmtpd, by the system's Python. It ends with its owner, whose end of
//! its standard input it reads.

use std::process::Stdio;

use serde_json::Value;
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::time::timeout;

use crate::certs::Certs;
use crate::wait::STALLED;

/// The interpreter that Debian's package is for, whichever others there are.
const PYTHON: &str = "/usr/bin/python3";

/// What it runs.
const SCRIPT: &str = include_str!("smtp.py");

/// User and password of a server that asks for them.
pub const LOGIN: (&str, &str) = ("shop", "hunter2-mail");

/// A running server.
pub struct Smtp {
    /// Where it listens, on the loopback address.
    pub port: u16,
    /// The certificate that signs its own, as PEM.
    pub ca: String,
    told: Lines<BufReader<ChildStdout>>,
    _child: Child,
    _stdin: ChildStdin,
    _folder: tempfile::TempDir,
}

impl Smtp {
    /// Starts it with `implicit` or `starttls` and [`LOGIN`], or with `none` of both.
    pub async fn start(tls: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let certs = Certs::make();
        let (certificate, key) = certs.server;
        let path = |name: &str| folder.path().join(name);
        std::fs::write(path("cert.pem"), certificate).unwrap();
        std::fs::write(path("key.pem"), key).unwrap();
        let (user, password) = if tls == "none" { ("", "") } else { LOGIN };
        let mut child = Command::new(PYTHON)
            .args(["-c", SCRIPT, tls])
            .args([path("cert.pem"), path("key.pem")])
            .args([user, password])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            // Warnings of the library.
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let mut server = Self {
            port: 0,
            ca: certs.ca,
            told: BufReader::new(child.stdout.take().unwrap()).lines(),
            _stdin: child.stdin.take().unwrap(),
            _child: child,
            _folder: folder,
        };
        server.port = u16::try_from(server.next().await["port"].as_u64().unwrap()).unwrap();
        server
    }

    /// The next message: `from`, `to`, `text`, whether it came `encrypted`, and by which `user`.
    pub async fn next(&mut self) -> Value {
        let line = timeout(STALLED, self.told.next_line()).await.unwrap();
        serde_json::from_str(&line.unwrap().unwrap()).unwrap()
    }
}
