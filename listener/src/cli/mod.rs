//! The command line: what it accepts, and which exit code says what.

mod check;
mod demo;
mod dlq;
mod events;
mod files;
mod jobs;
mod output;
mod replay;
mod run;
mod sample;
mod schema;
mod status;
mod table;
mod watched;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use crds::config::Redacted;
use crds::duration::{HumanDuration, ParseDurationError};
use observer_listener::runtime::standalone::Jobs;
use observer_listener::telemetry::logs::{self, LogFormat};
use url::Url;

/// Exit code for a configuration or a command line that cannot be run.
const EXIT_CONFIG: u8 = 2;

/// Exit code for what went wrong while running.
const EXIT_RUN: u8 = 1;

/// What is logged while a display is on: nothing that it shows anyway.
const QUIET: &str =
    "warn,observer::action=error,observer::attempt=error,observer::dead_letter=error";

/// Runs observers against a Postgres database: when this changes and that condition holds, do
/// these actions.
#[derive(Debug, Parser)]
#[command(name = "observer-listener", version, arg_required_else_help = true)]
struct Cli {
    /// Form of the log lines on standard error; `RUST_LOG` sets the level
    #[arg(
        long,
        global = true,
        value_enum,
        default_value_t,
        env = "OBSERVER_LOG_FORMAT"
    )]
    log_format: LogFormat,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the observers of a file, or of a bundle in a cluster, until SIGTERM or Ctrl-C
    Run(run::RunArgs),
    /// Run a dedicated worker: only the jobs of a listener, beside the processes that run it
    Worker(run::RunArgs),
    /// Check files and print everything that is wrong with them
    Check(check::CheckArgs),
    /// Create or upgrade the schema `observer` in the database
    Migrate(schema::MigrateArgs),
    /// Reset stored positions after a restore
    ResetPosition(schema::ResetPositionArgs),
    /// Delete the progress, the jobs and the dead letters of a listener that is gone for good
    DropListener(schema::DropListenerArgs),
    /// Show who works on which shard, and how far it is
    Status(status::StatusArgs),
    /// Show events of the change log and what became of them
    #[command(subcommand)]
    Events(events::EventsCommand),
    /// List, retry or cancel jobs in the queue
    #[command(subcommand)]
    Jobs(jobs::JobsCommand),
    /// List, redrive or drop dead letters: deliveries that were given up on
    #[command(subcommand, alias = "dlq")]
    DeadLetters(dlq::DlqCommand),
    /// Send past events once more, marked as replays
    Replay(replay::ReplayArgs),
    /// Show it all at work on a small shop, with a Postgres and a receiver of its own
    Demo(demo::DemoArgs),
}

/// Files with an `ObserverListener`, its `Observer`s and perhaps `Secret`s.
#[derive(Debug, Args)]
struct FileArgs {
    /// File, or folder whose .yaml and .yml files are read; repeatable; `-` is standard input
    #[arg(short, long = "file", value_name = "FILE")]
    files: Vec<PathBuf>,
    /// The listener to run where the files hold several, as name or namespace/name
    #[arg(long, value_name = "NAME")]
    listener: Option<String>,
    /// Folder with a folder for each Secret and in it a file for each key
    #[arg(long, value_name = "DIR")]
    secrets_dir: Option<PathBuf>,
}

/// The database, named directly or by files.
#[derive(Debug, Args)]
struct DatabaseArgs {
    /// URL of the database, as `postgres://user:password@host:5432/database`; with a password, give it by
    /// the environment, as others may see arguments
    #[arg(
        long, value_name = "URL", env = "OBSERVER_DATABASE_URL", hide_env_values = true,
        value_parser = redacted, required_unless_present = "files"
    )]
    database_url: Option<Redacted>,
    /// File whose listener names the database; wins over the URL
    #[arg(short, long = "file", value_name = "FILE")]
    files: Vec<PathBuf>,
    /// The listener, as name or namespace/name
    #[arg(long, value_name = "NAME")]
    listener: Option<String>,
    /// Folder with a folder for each Secret and in it a file for each key
    #[arg(long, value_name = "DIR", requires = "files")]
    secrets_dir: Option<PathBuf>,
}

impl DatabaseArgs {
    /// The database's URL, and the listener's identity where one is named.
    fn resolve(self) -> Result<(Redacted, Option<String>), CliError> {
        match self.database_url {
            Some(url) if self.files.is_empty() => Ok((url, self.listener.map(identity))),
            _ => {
                let args = FileArgs {
                    files: self.files,
                    listener: self.listener,
                    secrets_dir: self.secrets_dir,
                };
                let listener = files::load(&args)?.bundle.listener;
                let identity = listener.identity();
                Ok((listener.database_url, Some(identity)))
            }
        }
    }
}

/// `namespace/name`; a name alone is one of namespace `default`.
fn identity(name: String) -> String {
    if name.contains('/') {
        name
    } else {
        format!("default/{name}")
    }
}

/// Why a command fails.
#[derive(Debug)]
enum CliError {
    /// What was given cannot be run.
    Config(String),
    /// It could, but did not work.
    Run(anyhow::Error),
    /// Nobody reads what it prints any more, which is no failure.
    Closed,
}

impl<E: Into<anyhow::Error>> From<E> for CliError {
    fn from(error: E) -> Self {
        Self::Run(error.into())
    }
}

/// Keeps a secret argument out of every message.
#[expect(clippy::unnecessary_wraps, reason = "clap asks for a result")]
fn redacted(text: &str) -> Result<Redacted, std::convert::Infallible> {
    Ok(Redacted::new(text))
}

/// Whether an argument is a database URL with a password.
fn shows_password(argument: &str) -> bool {
    let text = argument.strip_prefix("--database-url=").unwrap_or(argument);
    let is_database = text.starts_with("postgres://") || text.starts_with("postgresql://");
    is_database
        && Url::parse(text).is_ok_and(|url| {
            url.password().is_some() || url.query_pairs().any(|(name, _)| name == "password")
        })
}

/// Reads `20s`, `5m`, `250ms`.
fn duration(text: &str) -> Result<Duration, ParseDurationError> {
    text.parse::<HumanDuration>().map(HumanDuration::duration)
}

/// Runs the program and says by its exit code how it went.
pub(crate) fn main() -> ExitCode {
    let cli = Cli::parse();
    let quiet = matches!(cli.command, Command::Demo(_));
    if let Err(error) = logs::start(cli.log_format, if quiet { QUIET } else { "info" }) {
        return cannot_start(&error);
    }
    if std::env::args_os().any(|argument| shows_password(&argument.to_string_lossy())) {
        tracing::warn!(
            "the password in --database-url is for all to see who may list processes: give the URL by \
             OBSERVER_DATABASE_URL instead, or by a file (-f)"
        );
    }
    // Two are compiled in, as the client of Kafka brings its own; libraries are not to choose.
    let _the_first = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let runtime = match tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => return cannot_start(&error),
    };
    let result = runtime.block_on(async {
        match cli.command {
            Command::Run(args) => run::run(args, Jobs::Too).await,
            Command::Worker(args) => run::run(args, Jobs::Only).await,
            Command::Check(args) => check::check(&args).await,
            Command::Migrate(args) => schema::migrate(args).await,
            Command::ResetPosition(args) => schema::reset_position(args).await,
            Command::DropListener(args) => schema::drop_listener(args).await,
            Command::Status(args) => status::status(args).await,
            Command::Events(command) => events::events(command).await,
            Command::Jobs(command) => jobs::jobs(command).await,
            Command::DeadLetters(command) => dlq::dlq(command).await,
            Command::Replay(args) => replay::replay(args).await,
            Command::Demo(args) => demo::demo(args).await,
        }
    });
    // A task that hangs must not keep the program from ending.
    runtime.shutdown_timeout(Duration::from_secs(1));
    let code = match result {
        Ok(()) | Err(CliError::Closed) => ExitCode::SUCCESS,
        Err(CliError::Config(message)) => {
            logs::say(&format!("{message}\n"));
            ExitCode::from(EXIT_CONFIG)
        }
        Err(CliError::Run(error)) => {
            logs::say(&format!("error: {error}\n"));
            ExitCode::from(EXIT_RUN)
        }
    };
    logs::flush();
    code
}

fn cannot_start(error: &std::io::Error) -> ExitCode {
    logs::say(&format!("error: cannot start: {error}\n"));
    logs::flush();
    ExitCode::from(EXIT_RUN)
}
