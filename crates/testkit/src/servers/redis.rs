//! A Redis server of the program's own, in a temporary folder.
//!
//! It never outlives its owner: a guardian kills it and removes its folder. The server listens on
//! the loopback address only and asks for a random password.

use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::process::{Child, Command as AsyncCommand};
use tokio::sync::Mutex;
use uuid::Uuid;

use super::guardian::{Guardian, PORT_ATTEMPTS, free_port, run_as, unprivileged};
use super::{ServerError, io_error};

/// The program, as distributions name it; found along the path.
const PROGRAM: &str = "redis-server";

/// Until a started server answers, on a machine however busy; one that ends is not waited for. It may
/// have much to read from its disk first.
const START_LIMIT: Duration = Duration::from_mins(10);

/// From one look at a server until the next.
const PAUSE: Duration = Duration::from_millis(20);

/// `$1` the server's folder. A read ends when the owner does.
const GUARDIAN: &str = r#"
cat >/dev/null
if [ -e "$1/pid" ]; then
    kill -9 "$(cat "$1/pid")"
fi
# It may write until it is gone.
for _ in 1 2 3 4 5 6 7 8 9 10; do
    rm -rf "$1" && break
    sleep 0.1
done
"#;

/// When the server's log of changes is on the disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Fsync {
    /// Before each answer.
    #[default]
    Always,
    /// Every second.
    EverySecond,
    /// When the system likes.
    System,
    /// There is no log: all is lost with the server.
    Off,
}

/// How a server is set up.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// When its log of changes is on the disk.
    pub fsync: Fsync,
    /// Further lines of its settings.
    pub settings: Vec<String>,
    /// Password that servers of a group share; one of its own if `None`.
    pub password: Option<String>,
    /// Whether it is a Sentinel.
    pub sentinel: bool,
}

/// A running server; killed and removed when dropped, or when the owner's process ends.
#[derive(Debug)]
pub struct PrivateRedis {
    folder: PathBuf,
    port: u16,
    password: String,
    sentinel: bool,
    /// User and group to run as, unless they are the owner's own.
    run_as: Option<u32>,
    process: Mutex<Option<Child>>,
    _guardian: Guardian,
}

/// A password that nobody guesses.
pub(super) fn random_password() -> String {
    Uuid::new_v4().simple().to_string()
}

impl PrivateRedis {
    /// Starts a server without data; returns when it answers.
    pub async fn start(options: &Options) -> Result<Self, ServerError> {
        let temporary = TempDir::with_prefix("observers-redis-")
            .map_err(|source| io_error("make a folder in", &std::env::temp_dir(), source))?;
        let run_as = run_as(temporary.path())?;
        let guardian = Guardian::watch(GUARDIAN, &[temporary.path()], run_as)?;
        let mut server = Self {
            // From here on the guardian removes it.
            folder: temporary.keep(),
            port: 0,
            password: options.password.clone().unwrap_or_else(random_password),
            sentinel: options.sentinel,
            run_as,
            process: Mutex::new(None),
            _guardian: guardian,
        };
        let mut attempt = 1;
        loop {
            server.port = free_port().map_err(|source| {
                io_error("find a free port on", Path::new("127.0.0.1"), source)
            })?;
            server.write_settings(options)?;
            match server.resume().await {
                Err(ServerError::Failed { .. }) if attempt < PORT_ATTEMPTS => attempt += 1,
                Err(error) => return Err(error),
                Ok(()) => return Ok(server),
            }
        }
    }

    /// The port on the loopback address; the same after a restart.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Number of the process; none while it is stopped.
    pub async fn pid(&self) -> Option<u32> {
        self.process.lock().await.as_ref().and_then(Child::id)
    }

    /// The default user's password.
    #[must_use]
    pub fn password(&self) -> &str {
        &self.password
    }

    /// Its URL, as the default user.
    #[must_use]
    pub fn url(&self) -> String {
        format!("redis://:{}@127.0.0.1:{}/", self.password, self.port)
    }

    /// Has the server write what it has to and end; what it has no log of is lost.
    pub async fn stop(&self) -> Result<(), ServerError> {
        // It closes the connection instead of answering.
        let _ = self.ask("SHUTDOWN NOSAVE").await;
        self.reap(false).await
    }

    /// Kills the server.
    pub async fn crash(&self) -> Result<(), ServerError> {
        self.reap(true).await
    }

    /// Starts a stopped server, on the same port, with the data that it had; returns when it
    /// answers.
    pub async fn resume(&self) -> Result<(), ServerError> {
        let log = self.folder.join("log");
        let mut command = Command::new(PROGRAM);
        command
            .arg(self.folder.join("conf"))
            .args(self.sentinel.then_some("--sentinel"))
            .current_dir(&self.folder)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            // An interrupt from the terminal is for the owner alone.
            .process_group(0);
        unprivileged(&mut command, self.run_as);
        let mut child = AsyncCommand::from(command)
            .kill_on_drop(true)
            .spawn()
            .map_err(|source| io_error("start", Path::new(PROGRAM), source))?;
        let began = Instant::now();
        loop {
            if self
                .ask("PING")
                .await
                .is_some_and(|answer| answer.contains("+PONG"))
            {
                break;
            }
            let ended = child
                .try_wait()
                .map_err(|source| io_error("wait for", Path::new(PROGRAM), source))?;
            if ended.is_some() || began.elapsed() > START_LIMIT {
                let log = std::fs::read_to_string(&log).unwrap_or_default();
                let from = log.floor_char_boundary(log.len().saturating_sub(2000));
                return Err(ServerError::Failed {
                    program: PROGRAM,
                    output: log[from..].trim().to_owned(),
                });
            }
            tokio::time::sleep(PAUSE).await;
        }
        *self.process.lock().await = Some(child);
        Ok(())
    }

    /// Waits for the end of the server, which is on its way or is brought about.
    async fn reap(&self, kill: bool) -> Result<(), ServerError> {
        let Some(mut child) = self.process.lock().await.take() else {
            return Ok(());
        };
        if kill {
            child
                .start_kill()
                .map_err(|source| io_error("kill", Path::new(PROGRAM), source))?;
        }
        child
            .wait()
            .await
            .map_err(|source| io_error("wait for", Path::new(PROGRAM), source))?;
        // A killed one leaves its number behind, which may be another's soon.
        let _ = std::fs::remove_file(self.folder.join("pid"));
        Ok(())
    }

    /// Sends one command and reads what comes first; nothing where the server does not answer.
    pub(super) async fn ask(&self, command: &str) -> Option<String> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).await.ok()?;
        let sent = format!("AUTH {}\r\n{command}\r\n", self.password);
        stream.write_all(sent.as_bytes()).await.ok()?;
        let mut answer = Vec::new();
        // The answers to both, or the end.
        while !answer.ends_with(b"\n")
            || answer.iter().position(|byte| *byte == b'\n') == Some(answer.len() - 1)
        {
            if stream.read_buf(&mut answer).await.ok()? == 0 {
                break;
            }
        }
        Some(String::from_utf8_lossy(&answer).into_owned())
    }

    fn write_settings(&self, options: &Options) -> Result<(), ServerError> {
        let (appendonly, appendfsync) = match options.fsync {
            Fsync::Always => ("yes", "always"),
            Fsync::EverySecond => ("yes", "everysec"),
            Fsync::System => ("yes", "no"),
            Fsync::Off => ("no", "no"),
        };
        let folder = self.folder.display();
        let (port, password) = (self.port, &self.password);
        let log = if self.sentinel {
            String::new()
        } else {
            format!(
                "save \"\"\nappendonly {appendonly}\nappendfsync {appendfsync}\nmasterauth {password}\n"
            )
        };
        let further = options.settings.join("\n");
        let settings = format!(
            "bind 127.0.0.1\nport {port}\nrequirepass {password}\ndir {folder}\npidfile {folder}/pid\n\
             logfile {folder}/log\ndaemonize no\n{log}{further}\n"
        );
        let path = self.folder.join("conf");
        std::fs::write(&path, settings)
            .and_then(|()| chown(&path, self.run_as, self.run_as))
            .map_err(|source| io_error("write", &path, source))
    }
}
