//! Command line: arguments, commands and exit codes.

mod backfill;
mod breaker;
mod cache;
mod check;
mod completion;
mod dead_letters;
mod dry_run;
mod evaluation;
mod event_filter;
mod event_text;
mod event_view;
mod events;
mod files;
mod history_index;
mod jobs;
pub mod kubectl;
mod listener;
mod log_level;
mod output;
mod pending_outcomes;
mod replay;
mod run;
mod sample;
mod schema;
mod search;
mod search_output;
mod search_query;
mod status;
mod table;
mod tail;
mod terminal;
mod track;
mod watch;
mod watched;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{ArgGroup, Args, Parser, Subcommand};
use crds::config::{Bundle, ObserverConfig, Redacted};
use observer_listener::runtime::job_worker::WorkerMode;
use program::logs::{self, LogFormat};
use url::Url;

use self::terminal::Terminal;

/// Exit code of an invalid configuration or command line.
const EXIT_CONFIG: u8 = 2;

/// Exit code of a failure at run time.
const EXIT_RUN: u8 = 1;

/// Exit code after an interrupt, as shells give it.
const EXIT_INTERRUPTED: u8 = 130;

/// What is logged unless `RUST_LOG` says otherwise. The client of Kafka logs each step, and each failure
/// that the outcome of an attempt tells too.
const LOGGED: &str = "info,rskafka=off,krafka=off";

/// Run observers of a Postgres database: when a row changes and a condition holds, run actions
#[derive(Debug, Parser)]
#[command(name = "observer-listener", version, arg_required_else_help = true)]
struct Cli {
    /// Format of log lines on standard error; `RUST_LOG` sets the level
    #[arg(
        long,
        global = true,
        display_order = 999,
        value_enum,
        default_value_t,
        env = "OBSERVER_LOG_FORMAT"
    )]
    log_format: LogFormat,
    /// Talk to the terminal of the `kubectl` plugin, and end with standard input
    #[arg(long, global = true, hide = true, value_name = "TERMINAL")]
    relayed: Option<Terminal>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run observers from files, or from a bundle in a cluster, until SIGTERM or Ctrl-C
    Run(run::RunArgs),
    /// Run a dedicated worker, which only runs the jobs of a listener
    Worker(run::RunArgs),
    /// Check files and print all problems
    Check(check::CheckArgs),
    /// Create or upgrade the schema `observer` in the database
    Migrate(schema::MigrateArgs),
    /// Track the tables that a listener lists, or make the publication, the replica identity and the replication slot
    /// of its write-ahead log; print the SQL for what the login may not do, and end with 1 if something is missing then
    Track(track::TrackArgs),
    /// Reset stored positions after a restore
    ResetPosition(schema::ResetPositionArgs),
    /// Delete the checkpoints, jobs and dead letters of a listener that will not run again
    DropListener(schema::DropListenerArgs),
    /// Show shards with their owners and lag, processes, jobs and open circuit breakers
    Status(status::StatusArgs),
    /// Search the history of a listener: events by any field, with what became of them
    Search(Box<search::SearchArgs>),
    /// Show events of the history or of the change log, and what became of them
    #[command(subcommand)]
    Events(events::EventsCommand),
    /// Show events as they are committed, and what becomes of them, until Ctrl-C
    Tail(tail::TailArgs),
    /// List, retry or cancel jobs in the queue
    #[command(subcommand)]
    Jobs(jobs::JobsCommand),
    /// List, redrive, export or drop dead letters: deliveries that failed for good
    #[command(subcommand, alias = "dlq")]
    DeadLetters(dead_letters::DeadLettersCommand),
    /// Show the cache of lookups and actions, or drop results from it
    #[command(subcommand)]
    Cache(cache::CacheCommand),
    /// Close circuit breakers
    #[command(subcommand)]
    Breaker(breaker::BreakerCommand),
    /// Log more or less for a while in all processes of a listener
    LogLevel(log_level::LogLevelArgs),
    /// Deliver past events again, marked as replays
    Replay(replay::ReplayArgs),
    /// Send the rows that a table has, as events of operation Read
    #[command(subcommand)]
    Backfill(backfill::BackfillCommand),
    /// Write a script that completes commands in a shell
    Completion(completion::CompletionArgs),
}

/// Files with an `ObserverListener`, its `Observer`s and optional `Secret`s.
#[derive(Clone, Debug, Default, Args)]
struct FileArgs {
    /// File, or folder of .yaml and .yml files; repeatable; `-` is standard input
    #[arg(short, long = "file", value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Listener to use if the files contain several, as name or namespace/name
    #[arg(long, value_name = "NAME")]
    listener: Option<String>,
    /// Folder with a subfolder per Secret that contains a file per key
    #[arg(long, value_name = "DIR")]
    secrets_dir: Option<PathBuf>,
    #[command(flatten)]
    bundle: BundleArgs,
}

impl FileArgs {
    /// Returns whether they name a bundle, and no files.
    const fn is_bundle(&self) -> bool {
        self.files.is_empty() && self.bundle.bundle.is_some()
    }

    /// Fails if options of files are given with a bundle, which has one listener and its secrets.
    fn require_none_of_files(&self) -> Result<(), CliError> {
        let given = [
            ("--listener", self.listener.is_some()),
            ("--secrets-dir", self.secrets_dir.is_some()),
        ];
        match given.iter().find(|(_, is_given)| *is_given) {
            Some((option, _)) => Err(CliError::Config(format!(
                "{option} cannot be used with a bundle (--bundle or OBSERVER_BUNDLE), which has one listener and its \
                 secrets"
            ))),
            None => Ok(()),
        }
    }
}

/// The Secret with a listener's bundle, which its pods run from: in a pod the pod's own, by its environment.
#[derive(Clone, Debug, Default, Args)]
struct BundleArgs {
    /// Secret with a listener's bundle to read in a cluster, instead of files (`bundle.yaml`, or `bundle.yaml.gz`
    /// and its further parts); the pods of a listener name their own
    #[arg(long, value_name = "NAME", env = "OBSERVER_BUNDLE")]
    bundle: Option<String>,
    /// Namespace of the Secret
    #[arg(long, value_name = "NAME", env = POD_NAMESPACE)]
    namespace: Option<String>,
}

/// The database, given by URL, by files or by a bundle.
#[derive(Debug, Args)]
#[command(group = ArgGroup::new("source").args(["database_url", "files", "bundle"]).required(true).multiple(true))]
struct DatabaseArgs {
    /// URL of the database, as `postgres://user:password@host:5432/database`; pass a password through the
    /// environment, since other users may see arguments
    #[arg(
        long, value_name = "URL", env = "OBSERVER_DATABASE_URL", hide_env_values = true,
        value_parser = redacted
    )]
    database_url: Option<Redacted>,
    /// File with the listener, which gives the database; takes precedence over the URL
    #[arg(short, long = "file", value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Listener, as name or namespace/name
    #[arg(long, value_name = "NAME")]
    listener: Option<String>,
    /// Folder with a subfolder per Secret that contains a file per key
    #[arg(long, value_name = "DIR", requires = "files")]
    secrets_dir: Option<PathBuf>,
    #[command(flatten)]
    bundle: BundleArgs,
}

impl DatabaseArgs {
    /// Returns what describes the listener, unless a URL names a database alone.
    fn described(&self) -> Option<FileArgs> {
        (!self.files.is_empty() || self.database_url.is_none()).then(|| FileArgs {
            files: self.files.clone(),
            listener: self.listener.clone(),
            secrets_dir: self.secrets_dir.clone(),
            bundle: self.bundle.clone(),
        })
    }

    /// Returns the database that it names, from files if there are some, which are read once: standard input
    /// can be one of them.
    async fn resolve(self) -> Result<NamedDatabase, CliError> {
        match (self.described(), self.database_url) {
            (None, Some(url)) => Ok(NamedDatabase {
                url,
                listener: self.listener.map(identity),
                bundle: None,
            }),
            (described, _) => {
                let bundle = files::load(&described.unwrap_or_default()).await?.bundle;
                Ok(NamedDatabase {
                    url: bundle.listener.database_url.clone(),
                    listener: Some(bundle.listener.identity()),
                    bundle: Some(bundle),
                })
            }
        }
    }
}

/// Database that a command is given.
struct NamedDatabase {
    url: Redacted,
    /// Identity of the listener, if one is given.
    listener: Option<String>,
    /// What the files hold, if they name the database.
    bundle: Option<Bundle>,
}

/// Variable with the namespace of a pod.
const POD_NAMESPACE: &str = "POD_NAMESPACE";

/// Returns `namespace/name`; a name alone is in the namespace of this pod, or in `default` elsewhere.
fn identity(name: String) -> String {
    if name.contains('/') {
        return name;
    }
    let own = std::env::var(POD_NAMESPACE).ok();
    let namespace = own.filter(|own| !own.is_empty());
    format!("{}/{name}", namespace.as_deref().unwrap_or("default"))
}

/// Returns the observer of a listener that has this identity.
fn observer_of<'b>(bundle: &'b Bundle, name: &str) -> Result<&'b ObserverConfig, CliError> {
    let known = bundle.observers.iter();
    let found = known.clone().find(|one| one.identity() == name);
    found.ok_or_else(|| {
        let names: Vec<String> = known.map(ObserverConfig::identity).collect();
        CliError::Config(no_observer(name, &names))
    })
}

/// Says that a listener runs no observer of this name, and which one may be meant.
fn no_observer<S: AsRef<str>>(name: &str, known: &[S]) -> String {
    let known: Vec<&str> = known.iter().map(AsRef::as_ref).collect();
    if known.is_empty() {
        return format!("the listener runs no observer {name}, and no other");
    }
    let hint = did_you_mean(name, &known);
    format!(
        "the listener runs no observer {name}; it runs {}{hint}",
        known.join(", ")
    )
}

/// Names the known name that a mistyped one may stand for, as the end of a message.
fn did_you_mean<S: AsRef<str>>(name: &str, known: &[S]) -> String {
    let near = crds::manifest::closest(name, known.iter().map(AsRef::as_ref));
    near.map_or_else(String::new, |near| format!("; did you mean {near}?"))
}

/// Why a command fails.
#[derive(Debug)]
enum CliError {
    /// The configuration or the command line is invalid.
    Config(String),
    /// It failed at run time.
    Run(anyhow::Error),
    /// The reader of its output has closed the pipe, which is no failure.
    Closed,
}

impl<E: Into<anyhow::Error>> From<E> for CliError {
    fn from(error: E) -> Self {
        Self::Run(error.into())
    }
}

/// Keeps a secret argument out of every message.
#[expect(clippy::unnecessary_wraps, reason = "clap needs a result")]
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

/// Describes the command line.
#[must_use]
pub fn command() -> clap::Command {
    <Cli as clap::CommandFactory>::command()
}

/// Runs the program and returns its exit code.
#[must_use]
pub fn main() -> ExitCode {
    let called = std::env::args_os().next().unwrap_or_default();
    if kubectl::is_called(&called) {
        let words = std::env::args_os().skip(1);
        let words: Vec<String> = words
            .map(|word| word.to_string_lossy().into_owned())
            .collect();
        // What is typed so far need not be a command line yet.
        if let Some((kubectl::COMPLETE, typed)) =
            words.split_first().map(|(one, rest)| (one.as_str(), rest))
        {
            return run(LogFormat::Text, kubectl::complete::complete(typed));
        }
        let matches = kubectl::command().get_matches();
        return run(LogFormat::Text, kubectl::run(&matches));
    }
    let Cli {
        log_format,
        relayed,
        command,
    } = Cli::parse();
    let Some(terminal) = relayed else {
        return run(log_format, async {
            obey(command).await.map(|()| ExitCode::SUCCESS)
        });
    };
    terminal::talk_to(terminal);
    run(LogFormat::Text, async {
        tokio::select! {
            obeyed = obey(command) => obeyed.map(|()| ExitCode::SUCCESS),
            // Who asked for it is gone.
            () = terminal::input_ended() => Ok(ExitCode::from(EXIT_INTERRUPTED)),
        }
    })
}

/// Runs what the program is asked to do, and returns its exit code.
fn run(log_format: LogFormat, work: impl Future<Output = Result<ExitCode, CliError>>) -> ExitCode {
    if let Err(error) = logs::start(log_format, LOGGED) {
        return cannot_start(&error);
    }
    if std::env::args_os().any(|argument| shows_password(&argument.to_string_lossy())) {
        tracing::warn!(
            "the password in --database-url is visible in the list of processes: pass the URL in \
             OBSERVER_DATABASE_URL or in a file (-f) instead"
        );
    }
    // Two providers are compiled in, since the Kafka client has its own; libraries must not choose.
    let _already_installed = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let runtime = match tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => return cannot_start(&error),
    };
    let result = runtime.block_on(work);
    // A task that hangs must not keep the process alive.
    runtime.shutdown_timeout(Duration::from_secs(1));
    let code = match result {
        Ok(code) => code,
        Err(CliError::Closed) => ExitCode::SUCCESS,
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

/// Runs a command.
async fn obey(command: Command) -> Result<(), CliError> {
    match command {
        Command::Run(args) => Box::pin(run::run(args, WorkerMode::Embedded)).await,
        Command::Worker(args) => Box::pin(run::run(args, WorkerMode::Dedicated)).await,
        Command::Check(args) => check::check(&args).await,
        Command::Migrate(args) => schema::migrate(args).await,
        Command::Track(args) => Box::pin(track::track(args)).await,
        Command::ResetPosition(args) => schema::reset_position(args).await,
        Command::DropListener(args) => schema::drop_listener(args).await,
        Command::Status(args) => status::status(args).await,
        Command::Search(args) => search::search(*args).await,
        Command::Events(command) => events::events(command).await,
        Command::Tail(args) => tail::tail(args).await,
        Command::Jobs(command) => jobs::jobs(command).await,
        Command::DeadLetters(command) => dead_letters::dead_letters(command).await,
        Command::Cache(command) => cache::cache(command).await,
        Command::Breaker(command) => breaker::breaker(command).await,
        Command::LogLevel(args) => log_level::log_level(args).await,
        Command::Replay(args) => replay::replay(args).await,
        Command::Backfill(command) => Box::pin(backfill::backfill(command)).await,
        Command::Completion(args) => completion::completion(&args),
    }
}

fn cannot_start(error: &std::io::Error) -> ExitCode {
    logs::say(&format!("error: cannot start: {error}\n"));
    logs::flush();
    ExitCode::from(EXIT_RUN)
}
