//! A Postgres server of the program's own, in a temporary folder.
//!
//! It never outlives its owner: a guardian stops it and removes its folder. The server listens on
//! the loopback address only and asks for a random password.
//!
//! Made for demonstrations and tests: it does not survive a crash of the machine.

use std::fmt::Write as _;
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use tempfile::TempDir;
use tokio::process::Command as AsyncCommand;
use uuid::Uuid;

use super::binaries::Binaries;
use super::guardian::{Guardian, PORT_ATTEMPTS, free_port, run_as, unprivileged};
use super::io_error;

pub use super::ServerError;

/// Name of the super-user in the server.
const USER: &str = "postgres";

/// Seconds until a server must have started or stopped, of a machine however busy: one that ends
/// instead of starting is not waited for.
const LIMIT: &str = "600";

/// `$1` the folder with the programs, `$2` the server's folder. A read ends when the owner does.
const GUARDIAN: &str = r#"
cat >/dev/null
if [ -e "$2/data/postmaster.pid" ]; then
    "$1/pg_ctl" stop -D "$2/data" -m fast -t 10 -s || "$1/pg_ctl" stop -D "$2/data" -m immediate -s
fi
rm -rf "$2"
"#;

const SETTINGS: &str = "
listen_addresses = '127.0.0.1'
max_connections = 400
max_prepared_transactions = 20
shared_buffers = 128MB
max_wal_size = 4GB
# The machine's crash is not survived, a crash of the server is.
fsync = off
full_page_writes = off
";

/// A running server; stopped and removed when dropped, or when the owner's process ends.
#[derive(Debug)]
pub struct PrivateServer {
    binaries: PathBuf,
    folder: PathBuf,
    port: u16,
    password: String,
    /// User and group to run as, unless they are the owner's own.
    run_as: Option<u32>,
    _guardian: Guardian,
}

impl PrivateServer {
    /// Makes a new database cluster and starts a server on it; returns when it accepts connections.
    pub async fn start(binaries: &Binaries) -> Result<Self, ServerError> {
        Self::start_with(binaries, "").await
    }

    /// Starts one with further settings, a line each.
    pub async fn start_with(binaries: &Binaries, settings: &str) -> Result<Self, ServerError> {
        let mut server = Self::without_data(binaries).await?;
        server.make_cluster().await?;
        server.start_on_a_free_port(settings).await?;
        Ok(server)
    }

    async fn without_data(binaries: &Binaries) -> Result<Self, ServerError> {
        let temporary = TempDir::with_prefix("observers-")
            .map_err(|source| io_error("make a folder in", &std::env::temp_dir(), source))?;
        let run_as = run_as(temporary.path())?;
        let binaries = binaries.locate(run_as.is_some()).await?;
        let guardian = Guardian::watch(GUARDIAN, &[&binaries, temporary.path()], run_as)?;
        Ok(Self {
            binaries,
            // From here on the guardian removes it.
            folder: temporary.keep(),
            port: 0,
            password: Uuid::new_v4().simple().to_string(),
            run_as,
            _guardian: guardian,
        })
    }

    /// Makes a standby of this server, which is stopped for it and runs again then. It follows by the physical
    /// slot of this name, which it makes, and has these further settings.
    pub async fn standby(
        &self,
        binaries: &Binaries,
        slot: &str,
        settings: &str,
    ) -> Result<Self, ServerError> {
        let mut standby = Self::without_data(binaries).await?;
        standby.password.clone_from(&self.password);
        self.stop().await?;
        let mut copy = Command::new("cp");
        copy.arg("-a").arg(self.data()).arg(standby.data());
        run("cp", copy).await?;
        self.resume().await?;
        standby.write(&standby.data().join("standby.signal"), "")?;
        let (port, password) = (self.port, &self.password);
        let follows = format!(
            "primary_conninfo = 'host=127.0.0.1 port={port} user={USER} password={password} dbname=postgres'\n\
             primary_slot_name = '{slot}'\nhot_standby_feedback = on\n{settings}"
        );
        standby.start_on_a_free_port(&follows).await?;
        Ok(standby)
    }

    /// Makes a server of these programs that holds what this one does, by `pg_upgrade`. This one is stopped for it,
    /// and stays so. Not each installation has that program.
    pub async fn upgraded(&self, binaries: &Binaries) -> Result<Self, ServerError> {
        let mut new = Self::without_data(binaries).await?;
        new.password.clone_from(&self.password);
        new.make_cluster().await?;
        self.stop().await?;
        let mut upgrade = new.program("pg_upgrade");
        upgrade.args(["-U", USER]).arg("-b").arg(&self.binaries);
        upgrade.arg("-B").arg(&new.binaries);
        upgrade.arg("-d").arg(self.data()).arg("-D").arg(new.data());
        upgrade.arg("--socketdir").arg(&new.folder);
        run("pg_upgrade", upgrade).await?;
        new.start_on_a_free_port("").await?;
        Ok(new)
    }

    /// The port on the loopback address; the same after a restart.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// URL of one of its databases, as the super-user.
    #[must_use]
    pub fn url(&self, database: &str) -> String {
        format!(
            "postgres://{USER}:{}@127.0.0.1:{}/{database}",
            self.password, self.port
        )
    }

    /// Stops the server and keeps its data; open connections are broken.
    pub async fn stop(&self) -> Result<(), ServerError> {
        self.pg_ctl(&["stop", "-t", LIMIT, "-m", "fast"]).await
    }

    /// Stops the server as a crash would: it recovers from its log at the next start.
    pub async fn crash(&self) -> Result<(), ServerError> {
        self.pg_ctl(&["stop", "-t", LIMIT, "-m", "immediate"]).await
    }

    /// Starts a stopped server, on the same port.
    pub async fn resume(&self) -> Result<(), ServerError> {
        let log = self.folder.join("log");
        let started = self
            .pg_ctl(&["start", "-t", LIMIT, "-l", &log.to_string_lossy()])
            .await;
        started.map_err(|error| match error {
            ServerError::Failed {
                program,
                mut output,
            } => {
                let log = std::fs::read_to_string(&log).unwrap_or_default();
                let from = log.floor_char_boundary(log.len().saturating_sub(2000));
                // Writing to a string cannot fail.
                let _ = write!(output, "\n{}", log[from..].trim_end());
                ServerError::Failed { program, output }
            }
            other => other,
        })
    }

    /// Starts a stopped server as a standby that nobody sends anything, until it is promoted.
    pub async fn resume_as_standby(&self) -> Result<(), ServerError> {
        self.write(&self.data().join("standby.signal"), "")?;
        self.resume().await
    }

    fn data(&self) -> PathBuf {
        self.folder.join("data")
    }

    async fn make_cluster(&self) -> Result<(), ServerError> {
        let password = self.folder.join("password");
        self.write(&password, &self.password)?;
        let mut initdb = self.program("initdb");
        initdb
            .args([
                "-U",
                USER,
                "-E",
                "UTF8",
                "--locale=C",
                "--no-sync",
                "--auth-local=trust",
            ])
            .arg("--auth-host=scram-sha-256")
            .arg("--pwfile")
            .arg(&password)
            .arg("-D")
            .arg(self.data());
        run("initdb", initdb).await?;
        std::fs::remove_file(&password).map_err(|source| io_error("remove", &password, source))
    }

    async fn start_on_a_free_port(&mut self, further: &str) -> Result<(), ServerError> {
        let mut attempt = 1;
        loop {
            self.port = free_port().map_err(|source| {
                io_error("find a free port on", Path::new("127.0.0.1"), source)
            })?;
            let settings = format!(
                "{SETTINGS}port = {}\nunix_socket_directories = '{}'\n{further}\n",
                self.port,
                self.folder.display()
            );
            // Last in precedence and empty so far, so it may be overwritten.
            self.write(&self.data().join("postgresql.auto.conf"), &settings)?;
            match self.resume().await {
                Err(ServerError::Failed { .. }) if attempt < PORT_ATTEMPTS => attempt += 1,
                other => return other,
            }
        }
    }

    /// Writes a file that the server's user can read and nobody else.
    fn write(&self, path: &Path, text: &str) -> Result<(), ServerError> {
        std::fs::write(path, text)
            .and_then(|()| chown(path, self.run_as, self.run_as))
            .map_err(|source| io_error("write", path, source))
    }

    async fn pg_ctl(&self, arguments: &[&str]) -> Result<(), ServerError> {
        let mut pg_ctl = self.program("pg_ctl");
        pg_ctl
            .args(arguments)
            .args(["-w", "-s", "-D"])
            .arg(self.data());
        run("pg_ctl", pg_ctl).await
    }

    fn program(&self, name: &str) -> Command {
        let mut command = Command::new(self.binaries.join(name));
        // The owner's folder may be one that the server's user cannot enter.
        command.current_dir(&self.folder).env("LC_ALL", "C");
        unprivileged(&mut command, self.run_as);
        command
    }
}

async fn run(program: &'static str, command: Command) -> Result<(), ServerError> {
    let path = PathBuf::from(command.get_program());
    let output = AsyncCommand::from(command)
        .stdin(Stdio::null())
        .process_group(0)
        .output()
        .await
        .map_err(|source| io_error("run", &path, source))?;
    if output.status.success() {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&output.stderr);
    Err(ServerError::Failed {
        program,
        output: text.trim().to_owned(),
    })
}
