//! `events`: events of the change log or of the history, and what became of them.

use ::search::{Document, SearchError};
use clap::Subcommand;
use futures::stream::{self, StreamExt, TryStreamExt};
use observer_listener::dead_letters::replay;
use observer_listener::delivery::event::Event;
use observer_listener::history::events::{self, EventFilter, EventId};
use observer_listener::history::outcome::EventProgress;
use program::logs;
use sqlx::PgPool;

use super::event_filter::Filter;
use super::event_text::{described, of_observer, summary};
use super::event_view::EventView;
use super::history_index::HistoryIndex;
use super::listener::{self, EventOutcome, OpenListener};
use super::output::{OutputFormat, say, time};
use super::table::{one_line, print};
use super::{CliError, DatabaseArgs};

/// Number of events whose outcomes are looked up at once.
const CONCURRENCY: usize = 4;

#[derive(Debug, Subcommand)]
pub(super) enum EventsCommand {
    /// List the newest events: of the listener's history where it keeps one, else of the change log; with -f,
    /// what became of each
    List {
        #[command(flatten)]
        filter: Filter,
        /// Maximum number of events
        #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=1000))]
        limit: u32,
        /// Read the change log even if there is a history, which is up to a second behind
        #[arg(long)]
        log: bool,
        /// Output format
        #[arg(long, short, value_enum, default_value_t)]
        output: OutputFormat,
        #[command(flatten)]
        database: DatabaseArgs,
    },
    /// Show one event: its images, which observers it matched or why not, and for each delivery where it is,
    /// its attempts, and its job or dead letter
    Show {
        /// Its id, as in the list; a `webhook-id` as receivers get it will do
        id: String,
        /// Read the change log even if there is a history
        #[arg(long)]
        log: bool,
        /// Output format
        #[arg(long, short, value_enum, default_value_t)]
        output: OutputFormat,
        #[command(flatten)]
        database: DatabaseArgs,
    },
}

/// Where events are read.
struct Sources {
    pool: PgPool,
    listener: Option<OpenListener>,
    history: Option<HistoryIndex>,
}

impl Sources {
    async fn open(database: DatabaseArgs, log: bool) -> Result<Self, CliError> {
        let (pool, listener) = listener::open(database).await?;
        let history = match &listener {
            Some(listener) if !log => HistoryIndex::open(&listener.config, pool.clone())?,
            _ => None,
        };
        Ok(Self {
            pool,
            listener,
            history,
        })
    }

    /// Returns what became of an event of the change log, if files name the listener.
    async fn outcome(&self, event: &Event) -> Result<Option<EventOutcome>, CliError> {
        match &self.listener {
            Some(listener) => Ok(Some(listener.outcome(&self.pool, event).await?)),
            None => Ok(None),
        }
    }
}

/// Runs an `events` command.
pub(super) async fn events(command: EventsCommand) -> Result<(), CliError> {
    match command {
        EventsCommand::List {
            filter,
            limit,
            log,
            output,
            database,
        } => {
            let sources = Sources::open(database, log).await?;
            list(&sources, filter, limit, output).await
        }
        EventsCommand::Show {
            id,
            log,
            output,
            database,
        } => show(&Sources::open(database, log).await?, &id, output).await,
    }
}

/// Tells that the change log is read, as the history cannot be.
fn say_fallback(error: &SearchError) {
    logs::say(&format!("{error}; reading the change log instead\n"));
}

async fn list(
    sources: &Sources,
    filter: Filter,
    limit: u32,
    output: OutputFormat,
) -> Result<(), CliError> {
    let history = sources.history.as_ref().filter(|one| one.has_outcomes);
    if let Some(history) = history {
        let request = history.request(filter.tenant(), filter.of_documents(), limit);
        match history.try_search(&request).await {
            Ok(page) => {
                let hits = page.hits.iter().map(|hit| &hit.document);
                let found: Vec<_> = hits
                    .map(|document| EventView::of_document(document, true))
                    .collect();
                if found.is_empty() && matches!(output, OutputFormat::Table) {
                    let extent = history.extent(filter.tenant()).await?;
                    say!("no event matches; {extent}{}", filter.hint())?;
                } else {
                    print_list(&found, page.next.is_none(), output)?;
                }
                return note_lag(&sources.pool, history).await;
            }
            Err(error) => say_fallback(&error),
        }
    }
    let hint = filter.hint();
    let most = limit.saturating_add(1);
    let mut found = events::list(&sources.pool, &filter.select(), i64::MAX, most).await?;
    let is_whole = found.len() <= as_len(limit);
    found.truncate(as_len(limit));
    let outcomes: Vec<Option<EventOutcome>> = stream::iter(&found)
        .map(|event| sources.outcome(event))
        .buffered(CONCURRENCY)
        .try_collect()
        .await?;
    let both = found.iter().zip(&outcomes);
    let views: Vec<EventView<'_>> = both
        .map(|(event, outcome)| EventView::logged(event, outcome.as_ref()))
        .collect();
    if views.is_empty() && matches!(output, OutputFormat::Table) {
        return say!("no event matches{}{hint}", since(&sources.pool).await?);
    }
    print_list(&views, is_whole, output)
}

/// Tells if the newest event of the change log is not in the history, though it has had the time.
async fn note_lag(pool: &PgPool, history: &HistoryIndex) -> Result<(), CliError> {
    let newest = events::list(pool, &EventFilter::default(), i64::MAX, 1).await?;
    if let Some(newest) = newest.first()
        && history.lacks(&newest.id, newest.occurred_at).await
    {
        logs::say(&format!(
            "the history is behind the change log: it does not hold event {} of {} yet; --log lists what the change log \
             holds\n",
            newest.id,
            time(newest.occurred_at)
        ));
    }
    Ok(())
}

/// Prints a list; the last column only where it is known what became of the events.
fn print_list(
    found: &[EventView<'_>],
    is_whole: bool,
    output: OutputFormat,
) -> Result<(), CliError> {
    if let OutputFormat::Json = output {
        return say!("{}", serde_json::to_string_pretty(found)?);
    }
    if found.iter().all(|event| event.observers.is_none()) {
        let rows: Vec<_> = found.iter().map(columns).collect();
        print(["ID", "TIME", "OPERATION", "ENTITY", "KEY"], &rows)?;
    } else {
        let rows: Vec<_> = found.iter().map(row).collect();
        print(EVENT_COLUMNS, &rows)?;
    }
    if is_whole {
        return Ok(());
    }
    let limit = found.len();
    say!(
        "the newest {limit}; use --limit to see more, or --to with the time of the last one for those before"
    )
}

/// Columns of a list of events.
pub(super) const EVENT_COLUMNS: [&str; 6] = ["ID", "TIME", "OPERATION", "ENTITY", "KEY", "OUTCOME"];

/// Returns an event as [`EVENT_COLUMNS`].
pub(super) fn row(event: &EventView<'_>) -> [String; 6] {
    let [id, at, operation, entity, key] = columns(event);
    [id, at, operation, entity, key, summary(event)]
}

fn columns(event: &EventView<'_>) -> [String; 5] {
    [
        event.id.to_owned(),
        time(event.occurred_at),
        event.operation.as_str().to_owned(),
        one_line(event.entity),
        one_line(event.key.unwrap_or("-")),
    ]
}

/// Returns a limit as a number of elements.
fn as_len(limit: u32) -> usize {
    usize::try_from(limit).unwrap_or(usize::MAX)
}

async fn show(sources: &Sources, id: &str, output: OutputFormat) -> Result<(), CliError> {
    let parsed: EventId = id.parse()?;
    let event = events::find(&sources.pool, &parsed).await?;
    let whole = parsed.whole().or(event.as_ref().map(|event| &*event.id));
    let document = document(sources, whole).await;
    let has_outcomes = sources.history.as_ref().is_some_and(|one| one.has_outcomes);
    // What is over is told by the document alone.
    let outcome = match &event {
        Some(event)
            if document
                .as_ref()
                .is_none_or(|one| !has_outcomes || one.is_unfinished()) =>
        {
            sources.outcome(event).await?
        }
        _ => None,
    };
    let view = match (&document, &event) {
        (Some(document), _) if has_outcomes => {
            let mut view = EventView::of_document(document, true);
            if let Some(outcome) = &outcome {
                view.update(outcome);
            }
            view
        }
        (_, Some(event)) => EventView::logged(event, outcome.as_ref()),
        (Some(document), None) => EventView::of_document(document, false),
        (None, None) => return Err(not_found(sources, id).await?),
    };
    match output {
        OutputFormat::Json => say!("{}", serde_json::to_string_pretty(&view)?),
        OutputFormat::Table => print_event(&view, sources.listener.is_some()),
    }
}

/// Returns the document of an event, if the history has it.
async fn document(sources: &Sources, id: Option<&str>) -> Option<Document> {
    match sources.history.as_ref()?.get(id?).await {
        Ok(found) => found,
        Err(error) => {
            say_fallback(&error);
            None
        }
    }
}

fn print_event(event: &EventView<'_>, is_listener_known: bool) -> Result<(), CliError> {
    say!("{}", described(event))?;
    let Some(observers) = &event.observers else {
        return if is_listener_known {
            say!("the history does not tell what became of events: spec.search.documents is Events")
        } else {
            say!("name the listener's files with -f FILE to see what became of it")
        };
    };
    for observer in observers {
        say!("{}", of_observer(observer))?;
    }
    if observers.is_empty() {
        say!("no observer watches {}", one_line(event.entity))?;
    }
    match event.progress {
        Some(EventProgress::NotStarted) => {
            say!("the listener has not run in this database yet")
        }
        Some(EventProgress::Ahead) => say!("the listener's checkpoint is not past it yet"),
        Some(EventProgress::Passed) | None => Ok(()),
    }
}

/// Returns the error of an event that is nowhere.
async fn not_found(sources: &Sources, id: &str) -> Result<CliError, CliError> {
    let Some(history) = &sources.history else {
        return missing(&sources.pool, id).await;
    };
    let extent = match history.extent(None).await {
        Ok(extent) => extent,
        Err(error) => error.to_string(),
    };
    let since = since(&sources.pool).await?;
    let error = anyhow::anyhow!("there is no event {id}; {extent}{since}");
    Ok(error.into())
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
