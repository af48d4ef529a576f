//! `jobs`: what is in the queue.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use ::queue::postgres::PostgresQueue;
use ::queue::{JobFilter, JobQueue, JobView, QueueConfig, QueueStats, State};
use chrono::Utc;
use clap::{Args, Subcommand, ValueEnum};
use crds::config::Bundle;
use crds::duration::HumanDuration;
use observer_listener::jobs::backend::{self, Place};
use observer_listener::migrate;
use sqlx::PgPool;

use super::dlq::{Output, TAKEN_UP};
use super::output::{agreed, counted, say, time};
use super::schema::{connect, of_known, of_one};
use super::table::{beginning, print};
use super::{CliError, DatabaseArgs, FileArgs, files, identity};

/// Most characters of an error in a table.
const ERROR_WIDTH: usize = 60;

/// Most jobs that are looked at for the names of their observers and actions.
const MOST_NAMES: usize = 1000;

#[derive(Debug, Subcommand)]
pub(super) enum JobsCommand {
    /// List the oldest
    List {
        #[command(flatten)]
        filter: Filter,
        /// Only those in this state
        #[arg(long, value_enum)]
        state: Option<Stand>,
        /// Most to list
        #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u16).range(1..=10_000))]
        limit: u16,
        /// How to print them
        #[arg(long, short, value_enum, default_value_t)]
        output: Output,
        #[command(flatten)]
        database: DatabaseArgs,
    },
    /// Show one with its event and its attempts, as JSON
    Show {
        /// Its id, as in the list
        id: String,
        #[command(flatten)]
        database: DatabaseArgs,
    },
    /// Make scheduled ones available now, instead of after their wait
    Retry(Chosen),
    /// Drop for good; those under way are cut off within seconds
    Cancel {
        #[command(flatten)]
        chosen: Chosen,
        /// Really cancel all
        #[arg(long)]
        yes: bool,
    },
}

#[derive(Debug, Args)]
pub(super) struct Chosen {
    /// Ids
    ids: Vec<String>,
    /// All that the filters leave, instead of ids
    #[arg(long, conflicts_with = "ids", required_unless_present = "ids")]
    all: bool,
    #[command(flatten)]
    filter: Filter,
    #[command(flatten)]
    database: DatabaseArgs,
}

#[derive(Debug, Default, Args)]
pub(super) struct Filter {
    /// Only those of this observer, as name or namespace/name
    #[arg(long, value_name = "NAME")]
    observer: Option<String>,
    /// Only those of this action
    #[arg(long, value_name = "NAME")]
    action: Option<String>,
}

impl Filter {
    fn select(self, ids: Option<Vec<String>>, state: Option<Stand>) -> JobFilter {
        JobFilter {
            ids,
            observer: self.observer.map(identity),
            action: self.action,
            state: state.map(Stand::state),
        }
    }
}

/// Where a job stands.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(super) enum Stand {
    /// First of its key, and can be claimed
    Available,
    /// First of its key, and waits for its next attempt
    Scheduled,
    /// Held by a worker
    Running,
    /// Behind another of its key
    Blocked,
    /// Done, where the listener keeps those for a while
    Completed,
}

impl Stand {
    const fn state(self) -> State {
        match self {
            Self::Available => State::Available,
            Self::Scheduled => State::Scheduled,
            Self::Running => State::Running,
            Self::Blocked => State::Blocked,
            Self::Completed => State::Completed,
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
            let what = filter.select(None, state);
            check_names(queue.as_ref(), &what, &names).await?;
            let (jobs, count) = queue.list(&what, limit.into()).await?;
            match output {
                Output::Json => say!("{}", serde_json::to_string_pretty(&jobs)?)?,
                Output::Table => table(&jobs, count)?,
            }
        }
        JobsCommand::Show { id, database } => {
            let Some(job) = open(database).await?.0.show(&id).await? else {
                return all_there(&[id]);
            };
            say!("{}", serde_json::to_string_pretty(&job)?)?;
        }
        JobsCommand::Retry(chosen) => {
            let (queue, what) = chosen.open().await?;
            let missing = missing(queue.as_ref(), &what).await?;
            let count = queue.retry(&what).await?;
            say!("{count} available now; {TAKEN_UP}")?;
            all_there(&missing)?;
        }
        JobsCommand::Cancel { chosen, yes } => {
            let (queue, what) = chosen.open().await?;
            let missing = missing(queue.as_ref(), &what).await?;
            if what.ids.is_none() {
                let (_, count) = queue.list(&what, 1).await?;
                let count = counted(count, "job", "jobs");
                agreed(yes, &format!("{count} would be dropped for good"))?;
            }
            say!("{} cancelled", queue.cancel(&what).await?)?;
            all_there(&missing)?;
        }
    }
    Ok(())
}

/// Of the ids that were given, those that name no job.
async fn missing(queue: &dyn JobQueue, what: &JobFilter) -> Result<Vec<String>, CliError> {
    let mut missing = Vec::new();
    for id in what.ids.iter().flatten() {
        if queue.show(id).await?.is_none() {
            missing.push(id.clone());
        }
    }
    Ok(missing)
}

/// Fails where some of the ids that were given name nothing.
fn all_there(missing: &[String]) -> Result<(), CliError> {
    if missing.is_empty() {
        return Ok(());
    }
    Err(anyhow::anyhow!(
        "there is no job {}: it may be done, or have become a dead letter; `jobs list` shows which there are",
        missing.join(", ")
    )
    .into())
}

impl Chosen {
    async fn open(self) -> Result<(Arc<dyn JobQueue>, JobFilter), CliError> {
        let what = self.filter.select((!self.all).then_some(self.ids), None);
        let (queue, names) = open(self.database).await?;
        check_names(queue.as_ref(), &what, &names).await?;
        Ok((queue, what))
    }
}

/// Observers and actions, by name.
type Names = BTreeSet<(String, String)>;

/// The queue of a listener, as its file says, or in the database of the URL; and the names that the
/// file knows.
async fn open(args: DatabaseArgs) -> Result<(Arc<dyn JobQueue>, Names), CliError> {
    if args.files.is_empty() {
        let (pool, listener) = of_one(args).await?;
        if backend::is_in_redis(&pool, &listener).await? {
            return Err(CliError::Config(format!(
                "jobs of listener {listener} are in Redis: name its files with -f FILE, which say how to reach it"
            )));
        }
        return Ok((postgres(pool, &listener), Names::new()));
    }
    let files = FileArgs {
        files: args.files,
        listener: args.listener,
        secrets_dir: args.secrets_dir,
    };
    let bundle = files::load(&files)?.bundle;
    let names = bundle.observers.iter().flat_map(|observer| {
        let actions = observer.actions.iter();
        actions.map(|action| (observer.identity(), action.name.clone()))
    });
    let names = names.collect();
    let pool = connect(&bundle.listener.database_url).await?;
    migrate::verify(&pool).await?;
    let place = Place::open_recorded(&bundle.listener, pool).await?;
    Ok((place.queue, names))
}

/// The queue of a bundle's listener.
pub(super) async fn of_bundle(
    bundle: &Bundle,
    pool: PgPool,
) -> Result<Arc<dyn JobQueue>, CliError> {
    Ok(Place::open_recorded(&bundle.listener, pool).await?.queue)
}

fn postgres(pool: PgPool, listener: &str) -> Arc<dyn JobQueue> {
    let config = QueueConfig {
        lease: Duration::from_secs(30),
        retention: Duration::ZERO,
    };
    Arc::new(PostgresQueue::new(pool, listener, config))
}

/// How the jobs of a listener are doing that are kept in its database; nothing where they are in Redis.
pub(super) async fn in_postgres(
    pool: &PgPool,
    listener: &str,
) -> Result<Option<Vec<(String, QueueStats)>>, CliError> {
    if backend::is_in_redis(pool, listener).await? {
        return Ok(None);
    }
    Ok(Some(postgres(pool.clone(), listener).stats().await?))
}

/// The database and the listener of a look at the state, and its queue where files name it.
pub(super) async fn of_status(
    args: DatabaseArgs,
) -> Result<(PgPool, Option<String>, Option<Arc<dyn JobQueue>>), CliError> {
    let mut queue = None;
    if !args.files.is_empty() {
        let files = FileArgs {
            files: args.files.clone(),
            listener: args.listener.clone(),
            secrets_dir: args.secrets_dir.clone(),
        };
        let listener = files::load(&files)?.bundle.listener;
        let pool = connect(&listener.database_url).await?;
        migrate::verify(&pool).await?;
        let identity = listener.identity();
        // Without a Redis of the listener, jobs that are there cannot be counted.
        queue = match listener.queue.redis {
            Some(_) if backend::is_in_redis(&pool, &identity).await? => {
                let place = Place::open_recorded(&listener, pool.clone()).await?;
                Some(place.queue)
            }
            _ => None,
        };
        return Ok((pool, Some(identity), queue));
    }
    let (pool, listener) = of_known(args).await?;
    Ok((pool, listener, queue))
}

/// Fails where a filter names an observer or an action that is neither in the files nor has jobs, as
/// one does that is mistyped.
async fn check_names(
    queue: &dyn JobQueue,
    what: &JobFilter,
    names: &Names,
) -> Result<(), CliError> {
    let any = JobFilter {
        ids: None,
        state: None,
        ..what.clone()
    };
    let fits =
        |wanted: &Option<String>, name: &String| wanted.as_ref().is_none_or(|one| one == name);
    let known = names
        .iter()
        .any(|(observer, action)| fits(&what.observer, observer) && fits(&what.action, action));
    let filtered = what.observer.is_some() || what.action.is_some();
    if !filtered || known || queue.list(&any, 1).await?.1 > 0 {
        return Ok(());
    }
    let (jobs, _) = queue.list(&JobFilter::default(), MOST_NAMES).await?;
    let jobs = jobs.into_iter().map(|job| (job.observer, job.action));
    let all: Names = jobs.chain(names.iter().cloned()).collect();
    let there = if all.is_empty() {
        "there are no jobs at all".to_owned()
    } else {
        let all: Vec<String> = all
            .iter()
            .map(|(observer, action)| format!("{observer}/{action}"))
            .collect();
        format!("there are {}", all.join(", "))
    };
    Err(anyhow::anyhow!("nothing is known of that observer or action; {there}").into())
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
        say!("{} of {count}; --limit shows more", jobs.len())?;
    }
    Ok(())
}

fn row(job: &JobView) -> [String; 8] {
    let state = match job.state {
        State::Available => "available",
        State::Scheduled => "scheduled",
        State::Running => "running",
        State::Blocked => "blocked",
        State::Completed => "completed",
    };
    let age = (Utc::now() - job.enqueued_at).num_seconds();
    let scheduled = match job.state {
        State::Available | State::Scheduled | State::Completed => time(job.scheduled_at),
        State::Running | State::Blocked => String::new(),
    };
    [
        job.id.clone(),
        state.to_owned(),
        format!("{}/{}", job.observer, job.action),
        beginning(job.key.as_deref().unwrap_or_default(), ERROR_WIDTH / 2),
        HumanDuration::from_secs(u64::try_from(age).unwrap_or(0)).to_string(),
        scheduled,
        job.attempts.to_string(),
        beginning(job.error.as_deref().unwrap_or_default(), ERROR_WIDTH),
    ]
}
