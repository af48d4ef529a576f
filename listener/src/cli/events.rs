//! `events`: what the change log holds, and what became of it.

use std::fmt::Write as _;
use std::sync::Arc;

use ::queue::JobQueue;
use chrono::{DateTime, Utc};
use clap::{Args, Subcommand, ValueEnum};
use crds::config::Operation;
use futures::stream::{self, StreamExt, TryStreamExt};
use observer_listener::admission::action_runtime::ActionRuntime;
use observer_listener::admission::endpoint_gate::EndpointRegistry;
use observer_listener::dead_letters::replay;
use observer_listener::delivery::event::Event;
use observer_listener::history::events::{self, EventFilter, EventId};
use observer_listener::history::outcome::{self, DeliveryState, EventProgress, ObserverOutcome};
use observer_listener::migrate;
use observer_listener::observers::Observers;
use serde::Serialize;
use serde_json::value::RawValue;
use sqlx::PgPool;

use super::dead_letters::moment;
use super::output::OutputFormat;
use super::output::{counted, say, time};
use super::schema::connect;
use super::table::{beginning, print};
use super::{CliError, DatabaseArgs, check, files, jobs};

/// Maximum number of characters of a key or an error in a table.
const TEXT_WIDTH: usize = 60;

/// Number of events whose outcomes are looked up at once.
const CONCURRENCY: usize = 4;

#[derive(Debug, Subcommand)]
pub(super) enum EventsCommand {
    /// List the newest events of the change log; with -f, what became of each
    List {
        #[command(flatten)]
        filter: Filter,
        /// Maximum number of events
        #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=1000))]
        limit: u32,
        /// How to print them
        #[arg(long, short, value_enum, default_value_t)]
        output: OutputFormat,
        #[command(flatten)]
        database: DatabaseArgs,
    },
    /// Show one event: its images, which observers it met or why not, and where each delivery is
    Show {
        /// Its id, as in the list; a `webhook-id` as receivers get it will do
        id: String,
        /// How to print it
        #[arg(long, short, value_enum, default_value_t)]
        output: OutputFormat,
        #[command(flatten)]
        database: DatabaseArgs,
    },
}

#[derive(Debug, Default, Args)]
pub(super) struct Filter {
    /// Only events of this entity, as schema.table
    #[arg(long, value_name = "NAME")]
    entity: Option<String>,
    /// Only events of this key, as the list shows it
    #[arg(long, value_name = "KEY")]
    key: Option<String>,
    /// Only events of this tenant
    #[arg(long, value_name = "TENANT")]
    tenant: Option<String>,
    /// Only these operations; repeatable, or with commas
    #[arg(long, value_enum, value_delimiter = ',', value_name = "OPERATION")]
    operation: Vec<OperationArg>,
    /// Only events from this time on, as 2026-03-01T12:00:00Z, or 24h for so long ago
    #[arg(long, value_name = "TIME", value_parser = moment)]
    from: Option<DateTime<Utc>>,
    /// Only events before this time, written the same way
    #[arg(long, value_name = "TIME", value_parser = moment)]
    to: Option<DateTime<Utc>>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(super) enum OperationArg {
    /// A row was added
    Insert,
    /// A row was changed
    Update,
    /// A row was removed
    Delete,
    /// A table was emptied
    Truncate,
    /// `observer.emit` was called
    Custom,
}

impl Filter {
    fn select(self) -> EventFilter {
        let operation = |one| match one {
            OperationArg::Insert => Operation::Insert,
            OperationArg::Update => Operation::Update,
            OperationArg::Delete => Operation::Delete,
            OperationArg::Truncate => Operation::Truncate,
            OperationArg::Custom => Operation::Custom,
        };
        EventFilter {
            entity: self.entity,
            key: self.key,
            tenant: self.tenant,
            operations: self.operation.into_iter().map(operation).collect(),
            from: self.from,
            to: self.to,
        }
    }
}

/// A listener whose files were named: what it runs, and where its jobs are.
struct Listener {
    identity: String,
    observers: Observers,
    queue: Arc<dyn JobQueue>,
}

/// An event and what became of it, for programs.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Shown<'a> {
    id: &'a str,
    entity: &'a str,
    operation: Operation,
    key: Option<&'a str>,
    tenant: Option<&'a str>,
    occurred_at: DateTime<Utc>,
    old: Option<&'a RawValue>,
    new: Option<&'a RawValue>,
    changed: Vec<String>,
    #[serde(flatten)]
    outcome: Option<EventOutcome>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct EventOutcome {
    progress: EventProgress,
    observers: Vec<ObserverOutcome>,
}

/// Runs an `events` command.
pub(super) async fn events(command: EventsCommand) -> Result<(), CliError> {
    match command {
        EventsCommand::List {
            filter,
            limit,
            output,
            database,
        } => {
            let (pool, listener) = open(database).await?;
            list(&pool, listener.as_ref(), &filter.select(), limit, output).await
        }
        EventsCommand::Show {
            id,
            output,
            database,
        } => {
            let (pool, listener) = open(database).await?;
            show(&pool, listener.as_ref(), &id, output).await
        }
    }
}

/// The database, and the listener where files name it.
async fn open(args: DatabaseArgs) -> Result<(PgPool, Option<Listener>), CliError> {
    if args.files.is_empty() {
        let (url, _) = args.resolve()?;
        let pool = connect(&url).await?;
        migrate::verify(&pool).await?;
        return Ok((pool, None));
    }
    let loaded = files::load(&args.file_args())?;
    let listener = &loaded.bundle.listener;
    let shared = ActionRuntime::new(&listener.egress, &EndpointRegistry::default())?;
    let observers = check::compile(&loaded, &shared)?;
    let pool = connect(&listener.database_url).await?;
    migrate::verify(&pool).await?;
    let queue = jobs::of_listener(listener, pool.clone()).await?;
    let identity = listener.identity();
    Ok((
        pool,
        Some(Listener {
            identity,
            observers,
            queue,
        }),
    ))
}

impl Listener {
    async fn outcome(&self, pool: &PgPool, event: &Event) -> Result<EventOutcome, CliError> {
        let (progress, observers) = outcome::of_event(
            pool,
            self.queue.as_ref(),
            &self.identity,
            &self.observers,
            event,
        )
        .await?;
        Ok(EventOutcome {
            progress,
            observers,
        })
    }
}

async fn list(
    pool: &PgPool,
    listener: Option<&Listener>,
    filter: &EventFilter,
    limit: u32,
    output: OutputFormat,
) -> Result<(), CliError> {
    let found = events::list(pool, filter, i64::MAX, limit).await?;
    let outcomes: Vec<Option<EventOutcome>> = stream::iter(&found)
        .map(|event| async move {
            match listener {
                Some(listener) => listener.outcome(pool, event).await.map(Some),
                None => Ok(None),
            }
        })
        .buffered(CONCURRENCY)
        .try_collect()
        .await?;
    let both = found.iter().zip(outcomes);
    if let OutputFormat::Json = output {
        let shown: Vec<Shown> = both.map(|(event, outcome)| shown(event, outcome)).collect();
        return say!("{}", serde_json::to_string_pretty(&shown)?);
    }
    if found.is_empty() {
        return say!("no event matches{}", since(pool).await?);
    }
    let rows: Vec<_> = both
        .map(|(event, outcome)| {
            [
                event.id.clone(),
                time(event.occurred_at),
                format!("{:?}", event.operation),
                event.entity.to_string(),
                beginning(event.key.as_deref().unwrap_or("-"), TEXT_WIDTH),
                outcome.map_or_else(String::new, |outcome| summary(&outcome)),
            ]
        })
        .collect();
    let head = ["ID", "TIME", "OPERATION", "ENTITY", "KEY"];
    if listener.is_some() {
        let [id, at, operation, entity, key] = head;
        return print([id, at, operation, entity, key, "OUTCOME"], &rows);
    }
    let rows: Vec<_> = rows
        .into_iter()
        .map(|[a, b, c, d, e, _]| [a, b, c, d, e])
        .collect();
    print(head, &rows)
}

async fn show(
    pool: &PgPool,
    listener: Option<&Listener>,
    id: &str,
    output: OutputFormat,
) -> Result<(), CliError> {
    let parsed: EventId = id.parse()?;
    let Some(event) = events::find(pool, &parsed).await? else {
        return Err(anyhow::anyhow!(
            "there is no event {id}{}; what was given up on is kept longer: `dead-letters list`",
            since(pool).await?
        )
        .into());
    };
    let outcome = match listener {
        Some(listener) => Some(listener.outcome(pool, &event).await?),
        None => None,
    };
    if let OutputFormat::Json = output {
        return say!("{}", serde_json::to_string_pretty(&shown(&event, outcome))?);
    }
    say!("{}", described(&event))?;
    let Some(outcome) = outcome else {
        return say!("name the listener's files with -f FILE to see what became of it");
    };
    for observer in &outcome.observers {
        say!("{}", of_observer(observer))?;
    }
    if outcome.observers.is_empty() {
        say!("no observer watches {}", event.entity)?;
    }
    match outcome.progress {
        EventProgress::NotStarted => say!("the listener has not run in this database yet"),
        EventProgress::Ahead => say!("the listener's checkpoint is not past it yet"),
        EventProgress::Passed => Ok(()),
    }
}

/// Since when the log holds events, as an addition to a sentence.
async fn since(pool: &PgPool) -> Result<String, CliError> {
    Ok(match replay::oldest(pool).await? {
        Some(oldest) => format!(
            "; the change log holds events since {} (spec.database.retention says for how long it does)",
            time(oldest)
        ),
        None => "; the change log is empty".to_owned(),
    })
}

fn shown(event: &Event, outcome: Option<EventOutcome>) -> Shown<'_> {
    Shown {
        id: &event.id,
        entity: &event.entity,
        operation: event.operation,
        key: event.key.as_deref(),
        tenant: event.tenant.as_deref(),
        occurred_at: event.occurred_at,
        old: event.old.as_deref(),
        new: event.new.as_deref(),
        changed: event.changed(),
        outcome,
    }
}

/// The event for people.
fn described(event: &Event) -> String {
    let mut text = format!(
        "{}\n{:?} of {} at {}",
        event.id,
        event.operation,
        event.entity,
        event
            .occurred_at
            .to_rfc3339_opts(chrono::SecondsFormat::Micros, true)
    );
    let fields = [("key", &event.key), ("tenant", &event.tenant)];
    for (name, value) in fields {
        if let Some(value) = value {
            let _ = write!(text, "\n{name}: {}", value.escape_debug());
        }
    }
    for (name, image) in [("old", &event.old), ("new", &event.new)] {
        if let Some(image) = image {
            let _ = write!(text, "\n{name}: {}", image.get());
        }
    }
    let changed = event.changed();
    if !changed.is_empty() {
        let _ = write!(text, "\nchanged: {}", changed.join(", "));
    }
    text
}

/// An observer and its deliveries for people.
fn of_observer(observer: &ObserverOutcome) -> String {
    let mut text = match &observer.not_matched {
        Some(why) => format!("{}: not matched, {why}", observer.observer),
        None => format!("{}: matched", observer.observer),
    };
    for one in &observer.deliveries {
        let _ = write!(text, "\n  {}: {}", one.action, one.state.as_str());
        if let Some(id) = one.dead_letter {
            let _ = write!(text, " {id}");
        }
        if let Some(attempts) = one.attempts {
            let attempts = counted(attempts.into(), "attempt", "attempts");
            let _ = write!(text, ", {attempts}");
        }
        if let (DeliveryState::Queued, Some(at)) = (one.state, one.at) {
            let _ = write!(text, ", due {}", time(at));
        }
        if let Some(error) = &one.error {
            let _ = write!(text, ": {}", beginning(error, usize::MAX));
        }
    }
    text
}

/// What became of an event in a few words.
fn summary(outcome: &EventOutcome) -> String {
    if outcome.observers.is_empty() {
        return "no observer watches it".to_owned();
    }
    let deliveries = outcome.observers.iter().flat_map(|one| &one.deliveries);
    let mut counts: Vec<(&str, usize)> = Vec::new();
    for one in deliveries {
        match counts
            .iter_mut()
            .find(|(state, _)| *state == one.state.as_str())
        {
            Some((_, count)) => *count += 1,
            None => counts.push((one.state.as_str(), 1)),
        }
    }
    if counts.is_empty() {
        return "not matched".to_owned();
    }
    let parts: Vec<String> = counts
        .into_iter()
        .map(|(state, count)| {
            if count == 1 {
                state.to_owned()
            } else {
                format!("{count} {state}")
            }
        })
        .collect();
    parts.join(", ")
}
