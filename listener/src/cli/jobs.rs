//! `jobs`: list, retry and cancel jobs.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use ::queue::postgres::PostgresQueue;
use ::queue::{JobFilter, JobQueue, JobState, JobView, QueueConfig, QueueStats};
use chrono::Utc;
use clap::{Args, Subcommand, ValueEnum};
use crds::config::ListenerConfig;
use crds::duration::HumanDuration;
use observer_listener::jobs::backend::{self, QueueBackendHandle};
use observer_listener::migrate;
use sqlx::PgPool;

use super::output::{OutputFormat, PICKUP_NOTE, confirm, counted, say, time};
use super::schema::{connect, open_database, open_database_of_listener};
use super::table::{one_line, print};
use super::{CliError, DatabaseArgs, files, identity};

/// Most jobs that are read for the names of their observers and actions.
const MAX_NAMES: usize = 1000;

#[derive(Debug, Subcommand)]
pub(super) enum JobsCommand {
    /// List jobs, the oldest first
    List {
        #[command(flatten)]
        filter: JobFilterArgs,
        /// Only jobs in this state
        #[arg(long, value_enum)]
        state: Option<JobStateArg>,
        /// Maximum number of jobs
        #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u16).range(1..=10_000))]
        limit: u16,
        /// Output format
        #[arg(long, short, value_enum, default_value_t)]
        output: OutputFormat,
        #[command(flatten)]
        database: DatabaseArgs,
    },
    /// Show a job with its event and attempts as JSON
    Show {
        /// Id from the list
        id: String,
        #[command(flatten)]
        database: DatabaseArgs,
    },
    /// Make scheduled jobs available now, without waiting for their next attempt
    Retry(JobSelectionArgs),
    /// Cancel jobs permanently; running ones are stopped within seconds
    Cancel {
        #[command(flatten)]
        selection: JobSelectionArgs,
        /// Confirm the cancellation of all
        #[arg(long)]
        yes: bool,
    },
}

#[derive(Debug, Args)]
pub(super) struct JobSelectionArgs {
    /// Ids of jobs
    ids: Vec<String>,
    /// All jobs that match the filters, instead of ids
    #[arg(long, conflicts_with = "ids", required_unless_present = "ids")]
    all: bool,
    #[command(flatten)]
    filter: JobFilterArgs,
    #[command(flatten)]
    database: DatabaseArgs,
}

#[derive(Debug, Default, Args)]
pub(super) struct JobFilterArgs {
    /// Only jobs of this observer, as name or namespace/name
    #[arg(long, value_name = "NAME")]
    observer: Option<String>,
    /// Only jobs of this action
    #[arg(long, value_name = "NAME")]
    action: Option<String>,
}

impl JobFilterArgs {
    fn into_filter(self, ids: Option<Vec<String>>, state: Option<JobStateArg>) -> JobFilter {
        JobFilter {
            ids,
            observer: self.observer.map(identity),
            action: self.action,
            state: state.map(JobStateArg::state),
            tenant: None,
        }
    }
}

/// State of a job, as an argument.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(super) enum JobStateArg {
    /// First of its key, can be claimed now
    Available,
    /// First of its key, waits for its next attempt
    Scheduled,
    /// Held by a worker
    Running,
    /// Behind another of its key
    Blocked,
    /// Completed, if the listener keeps completed jobs
    Completed,
}

impl JobStateArg {
    const fn state(self) -> JobState {
        match self {
            Self::Available => JobState::Available,
            Self::Scheduled => JobState::Scheduled,
            Self::Running => JobState::Running,
            Self::Blocked => JobState::Blocked,
            Self::Completed => JobState::Completed,
        }
    }
}

/// Runs a `jobs` command.
pub(super) async fn jobs(command: JobsCommand) -> Result<(), CliError> {
    match command {
        JobsCommand::List {
            filter,
            state,
            limit,
            output,
            database,
        } => {
            let (queue, names) = open(database).await?;
            let filter = filter.into_filter(None, state);
            check_names(queue.as_ref(), &filter, &names).await?;
            let (jobs, count) = queue.list(&filter, limit.into()).await?;
            match output {
                OutputFormat::Json => say!("{}", serde_json::to_string_pretty(&jobs)?)?,
                OutputFormat::Table => table(&jobs, count)?,
            }
        }
        JobsCommand::Show { id, database } => {
            let Some(job) = open(database).await?.0.show(&id).await? else {
                return require_found(&[id]);
            };
            say!("{}", serde_json::to_string_pretty(&job)?)?;
        }
        JobsCommand::Retry(selection) => {
            let (queue, filter) = selection.open().await?;
            let missing = missing(queue.as_ref(), &filter).await?;
            let count = queue.retry(&filter).await?;
            say!("{count} available now; {PICKUP_NOTE}")?;
            require_found(&missing)?;
        }
        JobsCommand::Cancel { selection, yes } => {
            let (queue, filter) = selection.open().await?;
            let missing = missing(queue.as_ref(), &filter).await?;
            if filter.ids.is_none() {
                let (_, count) = queue.list(&filter, 1).await?;
                let count = counted(count, "job", "jobs");
                let effect =
                    format!("{count}, and those that come by then, would be cancelled permanently");
                confirm(yes, &effect).await?;
            }
            say!("{} cancelled", queue.cancel(&filter).await?)?;
            require_found(&missing)?;
        }
    }
    Ok(())
}

/// Returns the ids of a filter that do not exist.
async fn missing(queue: &dyn JobQueue, filter: &JobFilter) -> Result<Vec<String>, CliError> {
    let mut missing = Vec::new();
    for id in filter.ids.iter().flatten() {
        if queue.show(id).await?.is_none() {
            missing.push(id.clone());
        }
    }
    Ok(missing)
}

/// Fails if some of the given ids do not exist.
fn require_found(missing: &[String]) -> Result<(), CliError> {
    if missing.is_empty() {
        return Ok(());
    }
    Err(anyhow::anyhow!(
        "there is no job {}: it may be completed, or have become a dead letter; see `jobs list`",
        missing.join(", ")
    )
    .into())
}

impl JobSelectionArgs {
    async fn open(self) -> Result<(Arc<dyn JobQueue>, JobFilter), CliError> {
        let filter = self
            .filter
            .into_filter((!self.all).then_some(self.ids), None);
        let (queue, names) = open(self.database).await?;
        check_names(queue.as_ref(), &filter, &names).await?;
        Ok((queue, filter))
    }
}

/// Names of observers and their actions.
type ActionNames = BTreeSet<(String, String)>;

/// Opens the queue of a listener from its files or from the database URL. Also returns the names in the
/// files.
async fn open(args: DatabaseArgs) -> Result<(Arc<dyn JobQueue>, ActionNames), CliError> {
    let Some(described) = args.described() else {
        let (pool, listener) = open_database_of_listener(&args.resolve().await?).await?;
        if backend::is_in_redis(&pool, &listener).await? {
            return Err(CliError::Config(format!(
                "jobs of listener {listener} are in Redis: name its files with -f FILE, which contain the address"
            )));
        }
        return Ok((postgres(pool, &listener), ActionNames::new()));
    };
    let bundle = files::load(&described).await?.bundle;
    let names = bundle.observers.iter().flat_map(|observer| {
        let actions = observer.actions.iter();
        actions.map(|action| (observer.identity(), action.name.clone()))
    });
    let names = names.collect();
    let pool = connect(&bundle.listener.database_url).await?;
    migrate::verify(&pool).await?;
    Ok((of_listener(&bundle.listener, pool).await?, names))
}

/// Opens the queue of a listener.
pub(super) async fn of_listener(
    listener: &ListenerConfig,
    pool: PgPool,
) -> Result<Arc<dyn JobQueue>, CliError> {
    let backend_handle = QueueBackendHandle::open_recorded(listener, pool).await?;
    Ok(backend_handle.queue)
}

fn postgres(pool: PgPool, listener: &str) -> Arc<dyn JobQueue> {
    let config = QueueConfig {
        lease: Duration::from_secs(30),
        retention: Duration::ZERO,
    };
    Arc::new(PostgresQueue::new(pool, listener, config))
}

/// Returns statistics of the jobs of a listener in its database; `None` if they are in Redis.
pub(super) async fn stats_in_postgres(
    pool: &PgPool,
    listener: &str,
) -> Result<Option<Vec<(String, QueueStats)>>, CliError> {
    if backend::is_in_redis(pool, listener).await? {
        return Ok(None);
    }
    Ok(Some(postgres(pool.clone(), listener).stats().await?))
}

/// Opens the database for `status`. Also returns the listener if one is given, and its queue if it is in Redis.
pub(super) async fn open_for_status(
    args: DatabaseArgs,
) -> Result<(PgPool, Option<String>, Option<Arc<dyn JobQueue>>), CliError> {
    let mut queue = None;
    if let Some(described) = args.described() {
        let listener = files::load(&described).await?.bundle.listener;
        let pool = connect(&listener.database_url).await?;
        migrate::verify(&pool).await?;
        let identity = listener.identity();
        // Without the address of Redis, jobs in it cannot be counted.
        queue = match listener.queue.redis {
            Some(_) if backend::is_in_redis(&pool, &identity).await? => {
                Some(of_listener(&listener, pool.clone()).await?)
            }
            _ => None,
        };
        return Ok((pool, Some(identity), queue));
    }
    let (pool, listener) = open_database(&args.resolve().await?).await?;
    Ok((pool, listener, queue))
}

/// Fails if the observer or the action of a filter is neither in the files nor has jobs, since the name
/// may be mistyped.
async fn check_names(
    queue: &dyn JobQueue,
    filter: &JobFilter,
    names: &ActionNames,
) -> Result<(), CliError> {
    let any = JobFilter {
        ids: None,
        state: None,
        ..filter.clone()
    };
    let fits =
        |wanted: &Option<String>, name: &String| wanted.as_ref().is_none_or(|one| one == name);
    let known = names
        .iter()
        .any(|(observer, action)| fits(&filter.observer, observer) && fits(&filter.action, action));
    let filtered = filter.observer.is_some() || filter.action.is_some();
    if !filtered || known || queue.list(&any, 1).await?.1 > 0 {
        return Ok(());
    }
    let (jobs, _) = queue.list(&JobFilter::default(), MAX_NAMES).await?;
    let jobs = jobs.into_iter().map(|job| (job.observer, job.action));
    let all: ActionNames = jobs.chain(names.iter().cloned()).collect();
    let there = if all.is_empty() {
        "there are no jobs".to_owned()
    } else {
        let all: Vec<String> = all
            .iter()
            .map(|(observer, action)| format!("{observer}/{action}"))
            .collect();
        format!("there are {}", all.join(", "))
    };
    Err(anyhow::anyhow!("no such observer or action; {there}").into())
}

const HEAD: [&str; 8] = [
    "ID",
    "STATE",
    "OBSERVER/ACTION",
    "KEY",
    "AGE",
    "SCHEDULED",
    "ATTEMPTS",
    "LAST ERROR",
];

fn table(jobs: &[JobView], count: u64) -> Result<(), CliError> {
    if jobs.is_empty() {
        return say!("no jobs");
    }
    let rows: Vec<[String; 8]> = jobs.iter().map(row).collect();
    print(HEAD, &rows)?;
    if count > jobs.len() as u64 {
        say!("{} of {count}; use --limit to see more", jobs.len())?;
    }
    Ok(())
}

fn row(job: &JobView) -> [String; 8] {
    let age = (Utc::now() - job.enqueued_at).num_seconds();
    let scheduled = match job.state {
        JobState::Available | JobState::Scheduled | JobState::Completed => time(job.scheduled_at),
        JobState::Running | JobState::Blocked => String::new(),
    };
    [
        job.id.clone(),
        job.state.as_str().to_owned(),
        format!("{}/{}", job.observer, job.action),
        one_line(job.key.as_deref().unwrap_or_default()),
        HumanDuration::from_secs(u64::try_from(age).unwrap_or(0)).to_string(),
        scheduled,
        job.attempts.to_string(),
        one_line(job.error.as_deref().unwrap_or_default()),
    ]
}
