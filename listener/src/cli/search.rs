//! `search`: events of the history by any field.

use std::collections::BTreeSet;

use ::search::{
    DeliveryState, Filters, PageKey, SearchError, SearchPage, SearchRequest, SortOrder,
};
use clap::{ArgGroup, Args, ValueEnum};
use crds::config::{Bundle, ObserverConfig, SearchBackend};
use observer_listener::{database, migrate};
use program::logs;

use super::event_filter::Filter;
use super::history_index::HistoryIndex;
use super::output::{OutputFormat, say};
use super::search_output;
use super::search_query::Query;
use super::{CliError, FileArgs, files, identity, schema};

/// Number of events in memory with `--all` as JSON.
const PAGE: u32 = 500;

/// Maximum number of events of `--all`.
const MAX_ALL: usize = 100_000;

/// Explains the query language.
const QUERIES: &str = "\
Queries, in quotes for the shell:
  paid order                        words anywhere, all of them
  pay*                              words with this beginning
  '\"order 42 paid\"'                 words one after another
  'paid AND NOT (acme OR globex)'   either, not
  'new.status:paid'                 a column of the row after; old.status of the row before
  'new.total:>100'                  also >=, <, <= and [100 TO 200]
  'new.due:<2026-03-01'             a time, also 2026-03-01T12:00:00Z
  'new.address.city:\"New York\"'     a value inside a JSON column, as a whole
  'new.note:*'                      rows with a value there
  'key:42 changed:status'           the event itself: id, entity, operation, key, tenant,
                                    traceId, changed
  'status:503 error:timeout'        what became of it: observer, notMatched, action, state,
                                    attempts, status, kind, error, delivery, replay, job,
                                    deadLetter

Examples:
  observer-listener search -f shop.yaml 'new.total:>100' --outcome dead-letter --from 24h
  observer-listener search -f shop.yaml timeout --facets --limit 0
  observer-listener search -f shop.yaml --all -o json --from 7d | jq -r .id";

#[derive(Debug, Args)]
#[command(after_help = QUERIES, group = ArgGroup::new("what").args(["files", "bundle"]).required(true))]
pub(super) struct SearchArgs {
    /// What to search for, in the query language that `--help` explains; all events if absent. Write
    /// `NOT word` for `-word`, which is an option here
    #[arg(value_name = "QUERY")]
    query: Vec<String>,
    #[command(flatten)]
    filter: Filter,
    /// Only events that this observer matched, as name or namespace/name
    #[arg(long, value_name = "NAME")]
    observer: Option<String>,
    /// Only events with a delivery of this action
    #[arg(long, value_name = "NAME")]
    action: Option<String>,
    /// Only events with a delivery in such a state, of that observer and action if given; repeatable, or
    /// with commas
    #[arg(long, value_enum, value_delimiter = ',', value_name = "STATE")]
    outcome: Vec<StateArg>,
    /// Order
    #[arg(long, value_enum, default_value_t)]
    sort: SortArg,
    /// Maximum number of events; with 0, only their number and the facets
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(0..=i64::from(::search::MAX_LIMIT)))]
    limit: u32,
    /// Continue after this event: the id that the page before gave for that, with the same filters
    #[arg(long, value_name = "ID", value_parser = cursor)]
    cursor: Option<PageKey>,
    /// All events, up to 100000, instead of a page; as JSON one on each line
    #[arg(long, conflicts_with_all = ["limit", "facets"])]
    all: bool,
    /// Also count the events by entity, operation, observer, outcome and time
    #[arg(long)]
    facets: bool,
    /// Output format
    #[arg(long, short, value_enum, default_value_t)]
    output: OutputFormat,
    #[command(flatten)]
    files: FileArgs,
}

/// State of a delivery, as an argument.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(super) enum StateArg {
    /// Not attempted yet
    Pending,
    /// A job that waits for its first attempt
    Queued,
    /// An attempt failed, and another one is due
    Retrying,
    /// Over, but how is not known: delivered, cancelled or dropped
    Completed,
    /// Given up on by an action with `onFailure: Drop`
    Dropped,
    /// Given up on, and kept
    #[value(alias = "deadLetter")]
    DeadLetter,
    /// Accepted by the endpoint
    Delivered,
    /// No observer matched the event; this one cannot be combined with others
    #[value(alias = "notMatched")]
    NotMatched,
}

impl StateArg {
    /// Returns the state; none where there is no delivery.
    const fn state(self) -> Option<DeliveryState> {
        match self {
            Self::Pending => Some(DeliveryState::Pending),
            Self::Queued => Some(DeliveryState::Queued),
            Self::Retrying => Some(DeliveryState::Retrying),
            Self::Completed => Some(DeliveryState::Completed),
            Self::Dropped => Some(DeliveryState::Dropped),
            Self::DeadLetter => Some(DeliveryState::DeadLetter),
            Self::Delivered => Some(DeliveryState::Delivered),
            Self::NotMatched => None,
        }
    }
}

#[derive(Clone, Copy, Debug, Default, ValueEnum)]
enum SortArg {
    /// The latest event first
    #[default]
    Newest,
    /// The earliest event first
    Oldest,
}

/// Parses the id of an event as its place in the order of hits, which it says.
fn cursor(text: &str) -> Result<PageKey, String> {
    let key = || {
        let mut parts = text.split('-');
        let (_log, number, at) = (parts.next()?, parts.next()?, parts.next()?);
        let micros = u64::from_str_radix(at, 16).ok()?;
        let key = PageKey {
            occurred_at_micros: micros.cast_signed(),
            log_id: number.parse().ok()?,
            id: text.to_owned(),
        };
        parts.next().is_none().then_some(key)
    };
    key().ok_or_else(|| {
        "use the id of the last event that was shown, such as 3c5bf38d-140-6615e1afaa36c".to_owned()
    })
}

/// Runs `search`.
pub(super) async fn search(args: SearchArgs) -> Result<(), CliError> {
    let bundle = files::load(&args.files).await?.bundle;
    let history = open(&bundle).await?;
    let (output, all) = (args.output, args.all);
    let (tenant, hint) = (args.filter.tenant(), args.filter.hint());
    let query = query(&args)?;
    let request = request(args, &history, &query)?;
    let page = first_page(&history, &request, &query).await;
    let page = page.map_err(|error| query.failed(&history, error))?;
    if page.total == 0 {
        check_names(&bundle.observers, &request.filters)?;
    }
    match (all, output) {
        (true, OutputFormat::Json) => all_as_json(&history, request, page).await,
        (false, OutputFormat::Json) => search_output::as_json(&page),
        (_, OutputFormat::Table) if page.total == 0 => {
            let extent = history.extent(tenant).await?;
            say!("no event matches; {extent}{hint}")
        }
        (true, OutputFormat::Table) => {
            let page = rest(&history, request, page).await?;
            search_output::as_table(&page, history.has_outcomes)
        }
        (false, OutputFormat::Table) => search_output::as_table(&page, history.has_outcomes),
    }
}

/// Returns the first page. A query that a part is added to is first asked as it was given, so that the place
/// of a mistake is that in it.
async fn first_page(
    history: &HistoryIndex,
    request: &SearchRequest,
    query: &Query,
) -> Result<SearchPage, SearchError> {
    if query.is_extended() {
        let mut given = history.request(request.scope.tenant.clone(), request.filters.clone(), 0);
        given.filters.query = query.given();
        history.search(&given).await?;
    }
    history.search(request).await
}

/// Returns the query that is asked.
fn query(args: &SearchArgs) -> Result<Query, CliError> {
    let not_matched = args.outcome.iter().any(|one| one.state().is_none());
    if not_matched && args.outcome.len() > 1 {
        return Err(CliError::Config(
            "--outcome not-matched cannot be combined with other outcomes".to_owned(),
        ));
    }
    Ok(Query::new(args.query.join(" "), not_matched))
}

/// Returns what is searched for.
fn request(
    args: SearchArgs,
    history: &HistoryIndex,
    query: &Query,
) -> Result<SearchRequest, CliError> {
    let asks_for_outcomes =
        args.observer.is_some() || args.action.is_some() || !args.outcome.is_empty();
    if asks_for_outcomes && !history.has_outcomes {
        return Err(CliError::Config(
            "the history does not tell what became of events, as spec.search.documents is Events: leave out --observer, \
             --action and --outcome"
                .to_owned(),
        ));
    }
    let filters = Filters {
        query: query.whole(),
        observer: args.observer.map(identity),
        action: args.action,
        states: args.outcome.iter().filter_map(|one| one.state()).collect(),
        ..args.filter.of_documents()
    };
    let limit = if args.all { PAGE } else { args.limit };
    Ok(SearchRequest {
        sort: match args.sort {
            SortArg::Newest => SortOrder::Newest,
            SortArg::Oldest => SortOrder::Oldest,
        },
        after: args.cursor,
        facets: args.facets,
        highlight: query.has_text(),
        ..history.request(args.filter.tenant(), filters, limit)
    })
}

/// Opens the history of the listener of the files. A search server alone is asked, where it has the history.
async fn open(bundle: &Bundle) -> Result<HistoryIndex, CliError> {
    let listener = &bundle.listener;
    let pool = match listener.search.as_ref().map(|search| &search.backend) {
        Some(SearchBackend::Elasticsearch(_)) => database::search_pool(&listener.database_url)?,
        Some(SearchBackend::Postgres) => {
            let pool = schema::connect(&listener.database_url).await?;
            migrate::verify(&pool).await?;
            pool
        }
        None => {
            return Err(CliError::Config(format!(
                "listener {} keeps no history to search: add `search: {{postgres: {{}}}}` to its spec and run it; \
                 until then `events list` shows what the change log still holds",
                listener.identity()
            )));
        }
    };
    let history = HistoryIndex::open(listener, pool)?;
    history.ok_or_else(|| CliError::Config("spec.search is absent".to_owned()))
}

/// Fails if a filter names an observer or an action that the listener does not run. That no document has it
/// is known: it may be one that the listener ran once.
fn check_names(observers: &[ObserverConfig], filters: &Filters) -> Result<(), CliError> {
    let known: BTreeSet<String> = observers.iter().map(ObserverConfig::identity).collect();
    if let Some(name) = filters
        .observer
        .as_ref()
        .filter(|name| !known.contains(*name))
    {
        return Err(unknown("observer", name, "observers", known));
    }
    let of_observer = |one: &&ObserverConfig| {
        let name = filters.observer.as_ref();
        name.is_none_or(|name| *name == one.identity())
    };
    let actions = observers
        .iter()
        .filter(of_observer)
        .flat_map(|one| &one.actions);
    let known: BTreeSet<String> = actions.map(|action| action.name.clone()).collect();
    match filters
        .action
        .as_ref()
        .filter(|name| !known.contains(*name))
    {
        Some(name) => Err(unknown("action", name, "actions", known)),
        None => Ok(()),
    }
}

fn unknown(what: &str, name: &str, many: &str, known: BTreeSet<String>) -> CliError {
    let known: Vec<String> = known.into_iter().collect();
    CliError::Config(format!(
        "no event matches, and the listener has no {what} {name}; its {many} are {}",
        known.join(", ")
    ))
}

/// Prints all that match, page by page, each on a line.
async fn all_as_json(
    history: &HistoryIndex,
    mut request: SearchRequest,
    mut page: SearchPage,
) -> Result<(), CliError> {
    let mut printed = 0;
    loop {
        for hit in &page.hits {
            search_output::as_json_line(hit)?;
        }
        printed += page.hits.len();
        let Some(next) = page.next else { return Ok(()) };
        if printed >= MAX_ALL {
            note_bound(&next);
            return Ok(());
        }
        request.after = Some(next);
        page = history.search(&request).await?;
    }
}

/// Adds the pages that follow one.
async fn rest(
    history: &HistoryIndex,
    mut request: SearchRequest,
    mut page: SearchPage,
) -> Result<SearchPage, CliError> {
    while let Some(next) = page.next.take() {
        if page.hits.len() >= MAX_ALL {
            note_bound(&next);
            break;
        }
        request.after = Some(next);
        let more = history.search(&request).await?;
        page.hits.extend(more.hits);
        page.next = more.next;
    }
    Ok(page)
}

/// Tells that there are more than `--all` prints.
fn note_bound(next: &PageKey) {
    logs::say(&format!(
        "there are more than {MAX_ALL}: continue with --cursor {}\n",
        next.id
    ));
}

#[cfg(test)]
mod tests {
    use chrono::DateTime;
    use observer_listener::delivery::event;

    use super::*;

    #[test]
    fn ids_are_cursors() {
        for micros in [1_772_366_400_123_456, 0, -1] {
            let at = DateTime::from_timestamp_micros(micros).unwrap_or_default();
            let id = event::id("3c5bf38d", 140, at);
            let key = PageKey {
                occurred_at_micros: micros,
                log_id: 140,
                id: id.clone(),
            };
            assert_eq!(cursor(&id), Ok(key));
        }
        for wrong in ["", "140", "a-b-c", "3c5bf38d-140-zz", "3c5bf38d-140-1-2"] {
            assert!(cursor(wrong).is_err(), "{wrong}");
        }
    }
}
