//! A `PgBouncer` of the test's own before a server, in a temporary folder.

use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio::process::{Child, Command as AsyncCommand};
use url::Url;

use super::guardian::{free_port, run_as, unprivileged};
use super::{ServerError, io_error};
use crate::wait::eventually;

/// The program, where Debian puts it.
const PROGRAM: &str = "/usr/sbin/pgbouncer";

/// A running pooler; ended and removed when dropped.
#[derive(Debug)]
pub struct Pooler {
    port: u16,
    _process: Child,
    _folder: TempDir,
}

impl Pooler {
    /// Starts one that gives out at most so many connections to the server of this URL, in this mode
    /// (`session` or `transaction`), and passes over the settings that clients begin with.
    ///
    /// # Errors
    ///
    /// Where its folder cannot be prepared, or the program cannot be started.
    ///
    /// # Panics
    ///
    /// Where it does not answer.
    pub async fn start(server: &Url, mode: &str, most: u32) -> Result<Self, ServerError> {
        let (to, user) = (server.port().unwrap_or(5432), server.username());
        let password = server.password().unwrap_or_default();
        Self::start_as(server, |port, _| {
            format!(
                "[databases]\n* = host=127.0.0.1 port={to} user={user} password={password}\n[pgbouncer]\n\
                 listen_addr=127.0.0.1\nlisten_port={port}\nauth_type=any\npool_mode={mode}\n\
                 default_pool_size={most}\nunix_socket_dir=\nignore_startup_parameters=extra_float_digits,options\n"
            )
        })
        .await
    }

    /// Starts one with the settings that are made of its port and of the path of a list of users, in which the
    /// user of the server's URL stands with the password.
    ///
    /// # Errors
    ///
    /// Where its folder cannot be prepared, or the program cannot be started.
    ///
    /// # Panics
    ///
    /// Where it does not answer.
    pub async fn start_as(
        server: &Url,
        settings: impl FnOnce(u16, &Path) -> String,
    ) -> Result<Self, ServerError> {
        let folder = TempDir::with_prefix("observers-pgbouncer-")
            .map_err(|source| io_error("make a folder in", &std::env::temp_dir(), source))?;
        let user = run_as(folder.path())?;
        let port = free_port()
            .map_err(|source| io_error("find a free port on", Path::new("127.0.0.1"), source))?;
        let [ini, users] = ["ini", "userlist.txt"].map(|name| folder.path().join(name));
        let (name, password) = (server.username(), server.password().unwrap_or_default());
        for (path, text) in [
            (&ini, settings(port, &users)),
            (&users, format!("\"{name}\" \"{password}\"\n")),
        ] {
            std::fs::write(path, text)
                .and_then(|()| chown(path, user, user))
                .map_err(|source| io_error("write", path, source))?;
        }
        let mut command = Command::new(PROGRAM);
        command
            .arg("-q")
            .arg(&ini)
            .current_dir(folder.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0);
        unprivileged(&mut command, user);
        let process = AsyncCommand::from(command)
            .kill_on_drop(true)
            .spawn()
            .map_err(|source| io_error("start", Path::new(PROGRAM), source))?;
        eventually("the pooler takes connections", async || {
            TcpStream::connect(("127.0.0.1", port)).await.ok()
        })
        .await;
        Ok(Self {
            port,
            _process: process,
            _folder: folder,
        })
    }

    /// The port on the loopback address.
    #[must_use]
    pub const fn port(&self) -> u16 {
        self.port
    }

    /// The server's URL of a database, by way of the pooler.
    #[must_use]
    pub fn url(&self, database: &str) -> String {
        format!("postgres://postgres@127.0.0.1:{}/{database}", self.port)
    }
}
