//! `events`: what the change log holds, and what became of it.

use chrono::{DateTime, Utc};
use clap::{Args, Subcommand, ValueEnum};
use crds::config::Operation;
use futures::stream::{self, StreamExt, TryStreamExt};
use observer_listener::dead_letters::replay;
use observer_listener::history::events::{self, EventFilter, EventId};
use observer_listener::history::outcome::EventProgress;
use sqlx::PgPool;

use super::dead_letters::moment;
use super::event_view::{EventView, described, of_observer, summary};
use super::listener::{self, EventOutcome, OpenListener};
use super::output::{OutputFormat, say, time};
use super::table::{one_line, print};
use super::{CliError, DatabaseArgs};

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
    #[command(flatten)]
    what: WhatFilter,
    /// Only events from this time on, as 2026-03-01T12:00:00Z, or 24h for so long ago
    #[arg(long, value_name = "TIME", value_parser = moment)]
    from: Option<DateTime<Utc>>,
    /// Only events before this time, written the same way
    #[arg(long, value_name = "TIME", value_parser = moment)]
    to: Option<DateTime<Utc>>,
}

/// Filter by what an event is about.
#[derive(Debug, Default, Args)]
pub(super) struct WhatFilter {
    /// Only events of this entity, as schema.table
    #[arg(long, value_name = "NAME")]
    pub(super) entity: Option<String>,
    /// Only events of this key, as lists show it
    #[arg(long, value_name = "KEY")]
    pub(super) key: Option<String>,
    /// Only events of this tenant
    #[arg(long, value_name = "TENANT")]
    pub(super) tenant: Option<String>,
    /// Only these operations; repeatable, or with commas
    #[arg(long, value_enum, value_delimiter = ',', value_name = "OPERATION")]
    operation: Vec<OperationArg>,
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

impl WhatFilter {
    /// Returns the operations; none for all.
    pub(super) fn operations(&self) -> Vec<Operation> {
        let operation = |one: &OperationArg| match one {
            OperationArg::Insert => Operation::Insert,
            OperationArg::Update => Operation::Update,
            OperationArg::Delete => Operation::Delete,
            OperationArg::Truncate => Operation::Truncate,
            OperationArg::Custom => Operation::Custom,
        };
        self.operation.iter().map(operation).collect()
    }

    /// Returns the filter of events of any time.
    pub(super) fn select(self) -> EventFilter {
        EventFilter {
            operations: self.operations(),
            entity: self.entity,
            key: self.key,
            tenant: self.tenant,
            from: None,
            to: None,
        }
    }
}

impl Filter {
    fn select(self) -> EventFilter {
        EventFilter {
            from: self.from,
            to: self.to,
            ..self.what.select()
        }
    }
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
            let (pool, listener) = listener::open(database).await?;
            list(&pool, listener.as_ref(), &filter.select(), limit, output).await
        }
        EventsCommand::Show {
            id,
            output,
            database,
        } => {
            let (pool, listener) = listener::open(database).await?;
            show(&pool, listener.as_ref(), &id, output).await
        }
    }
}

async fn list(
    pool: &PgPool,
    listener: Option<&OpenListener>,
    filter: &EventFilter,
    limit: u32,
    output: OutputFormat,
) -> Result<(), CliError> {
    let mut found = events::list(pool, filter, i64::MAX, limit.saturating_add(1)).await?;
    let is_whole = found.len() <= as_len(limit);
    found.truncate(as_len(limit));
    let outcomes: Vec<Option<EventOutcome>> = stream::iter(&found)
        .map(|event| async move {
            match listener {
                Some(listener) => Ok(Some(listener.outcome(pool, event).await?)),
                None => Ok::<_, CliError>(None),
            }
        })
        .buffered(CONCURRENCY)
        .try_collect()
        .await?;
    let both = found.iter().zip(outcomes);
    if let OutputFormat::Json = output {
        let views: Vec<EventView> = both
            .map(|(event, outcome)| EventView::new(event, outcome))
            .collect();
        return say!("{}", serde_json::to_string_pretty(&views)?);
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
                one_line(&event.entity),
                one_line(event.key.as_deref().unwrap_or("-")),
                outcome.map_or_else(String::new, |outcome| summary(&outcome)),
            ]
        })
        .collect();
    print_list(&rows, listener.is_some())?;
    if is_whole {
        return Ok(());
    }
    say!(
        "the newest {limit}; use --limit to see more, or --to with the time of the last one for those before"
    )
}

/// Prints the table of a list; the last column only where it is known what became of the events.
fn print_list(rows: &[[String; 6]], with_outcomes: bool) -> Result<(), CliError> {
    if with_outcomes {
        return print(
            ["ID", "TIME", "OPERATION", "ENTITY", "KEY", "OUTCOME"],
            rows,
        );
    }
    let rows: Vec<[String; 5]> = rows
        .iter()
        .map(|[id, at, operation, entity, key, _]| {
            [id, at, operation, entity, key].map(Clone::clone)
        })
        .collect();
    print(["ID", "TIME", "OPERATION", "ENTITY", "KEY"], &rows)
}

/// Returns a limit as a number of elements.
fn as_len(limit: u32) -> usize {
    usize::try_from(limit).unwrap_or(usize::MAX)
}

async fn show(
    pool: &PgPool,
    listener: Option<&OpenListener>,
    id: &str,
    output: OutputFormat,
) -> Result<(), CliError> {
    let parsed: EventId = id.parse()?;
    let Some(event) = events::find(pool, &parsed).await? else {
        return Err(missing(pool, id).await?);
    };
    let outcome = match listener {
        Some(listener) => Some(listener.outcome(pool, &event).await?),
        None => None,
    };
    if let OutputFormat::Json = output {
        return say!(
            "{}",
            serde_json::to_string_pretty(&EventView::new(&event, outcome))?
        );
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

/// Returns the error of an event that the log does not hold.
pub(super) async fn missing(pool: &PgPool, id: &str) -> Result<CliError, CliError> {
    let error = anyhow::anyhow!(
        "there is no event {id}{}; what was given up on is kept longer: `dead-letters list`",
        since(pool).await?
    );
    Ok(error.into())
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
