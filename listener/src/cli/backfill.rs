//! `backfill`: send the rows that a table has as events of operation `Read`.

use std::time::Duration;

use clap::{Args, Subcommand};
use crds::config::{Bundle, ObserverConfig, Operation, SourceConfig};
use observer_listener::backfill::{
    self, Backfill, BackfillFilter, BackfillRequest, BackfillState, Change, CheckError, MAX_RATE,
    StoreError,
};
use program::logs;
use sqlx::PgPool;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::output::{OutputFormat, confirm, counted, say, time};
use super::schema::open_database_of_listener;
use super::table::{one_line, print};
use super::terminal::Progress;
use super::{CliError, DatabaseArgs, identity, observer_of, watch};

/// Interval of looks at a backfill that is followed.
const LOOK_INTERVAL: Duration = Duration::from_millis(500);

/// Time after which a backfill that nobody has taken up is remarked on.
const REMARK_AFTER: Duration = Duration::from_secs(10);

#[derive(Debug, Subcommand)]
pub(super) enum BackfillCommand {
    /// Start a backfill, and follow it; Ctrl-C ends the following and not the backfill
    Start(StartArgs),
    /// List backfills, the newest first
    List {
        /// Output format
        #[arg(long, short, value_enum, default_value_t)]
        output: OutputFormat,
        #[command(flatten)]
        database: DatabaseArgs,
    },
    /// Cancel a backfill; what of it is in the change log is still delivered
    Cancel(OneArgs),
    /// Let a backfill that failed or was cancelled go on after its last row
    Resume(OneArgs),
}

#[derive(Debug, Args)]
pub(super) struct StartArgs {
    /// Table, as schema.table
    #[arg(long, value_name = "TABLE")]
    table: String,
    /// Only for this observer, as name or namespace/name; default: all that watch Read of the table
    #[arg(long, value_name = "NAME")]
    observer: Option<String>,
    /// Only rows for which this holds: a column, one of = != < <= > >=, and a value, as status=paid; repeatable
    #[arg(long = "where", value_name = "FILTER")]
    filters: Vec<BackfillFilter>,
    /// Most rows per second; default: as fast as they are delivered
    #[arg(
        long, value_name = "PER SECOND",
        value_parser = clap::value_parser!(u32).range(1..=i64::from(MAX_RATE))
    )]
    rate: Option<u32>,
    /// Do not follow the backfill
    #[arg(long)]
    detach: bool,
    /// Output format
    #[arg(long, short, value_enum, default_value_t)]
    output: OutputFormat,
    /// Confirm that the rows are delivered
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    database: DatabaseArgs,
}

#[derive(Debug, Args)]
pub(super) struct OneArgs {
    /// Id from the list
    id: i64,
    #[command(flatten)]
    database: DatabaseArgs,
}

/// Runs a `backfill` command.
pub(super) async fn backfill(command: BackfillCommand) -> Result<(), CliError> {
    match command {
        BackfillCommand::Start(args) => start(args).await,
        BackfillCommand::List { output, database } => list(database, output).await,
        BackfillCommand::Cancel(args) => {
            let (pool, listener) =
                open_database_of_listener(&args.database.resolve().await?).await?;
            let done = backfill::cancel(&pool, &listener, args.id).await?;
            changed(
                done,
                args.id,
                "is cancelled; what of it is in the change log is still delivered",
            )
        }
        BackfillCommand::Resume(args) => {
            let (pool, listener) =
                open_database_of_listener(&args.database.resolve().await?).await?;
            let done = backfill::resume(&pool, &listener, args.id).await?;
            changed(
                done,
                args.id,
                "goes on; a running listener takes it up within seconds",
            )
        }
    }
}

fn changed(done: Change, id: i64, what: &str) -> Result<(), CliError> {
    match done {
        Change::Done => say!("backfill {id} {what}"),
        Change::Missing => Err(CliError::Config(format!(
            "the listener has no backfill {id}; `backfill list` shows its backfills"
        ))),
        Change::Already(state) => Err(CliError::Config(format!(
            "backfill {id} is {}, so there is nothing to do",
            state.as_str()
        ))),
    }
}

async fn start(args: StartArgs) -> Result<(), CliError> {
    let database = args.database.resolve().await?;
    let observer = args.observer.map(identity);
    if let Some(bundle) = &database.bundle {
        check_observers(bundle, &args.table, observer.as_deref())?;
    }
    let (pool, listener) = open_database_of_listener(&database).await?;
    let request = BackfillRequest {
        listener,
        entity: args.table,
        observer,
        filters: args.filters,
        rate: args.rate,
    };
    let triggers = SourceConfig::Triggers(Vec::new());
    let source = database
        .bundle
        .as_ref()
        .map_or(&triggers, |bundle| &bundle.listener.source);
    let estimate = match backfill::check(&pool, source, &request).await {
        Ok(rows) => counted(rows, "row", "rows"),
        Err(CheckError::Table(message)) => return Err(CliError::Config(message)),
        Err(error) => return Err(error.into()),
    };
    let which = if request.filters.is_empty() {
        ""
    } else {
        " of which the filters hold"
    };
    confirm(
        args.yes,
        &format!(
            "the rows of {}{which} would be delivered as events of operation Read: about {estimate} in the table",
            request.entity
        ),
    )
    .await?;
    let id = match backfill::start(&pool, &request).await {
        Ok(id) => id,
        Err(error @ (StoreError::TooMany | StoreError::Invalid(_))) => {
            return Err(CliError::Config(error.to_string()));
        }
        Err(error) => return Err(error.into()),
    };
    let end = if args.detach {
        one(&pool, &request.listener, id).await?
    } else {
        follow(&pool, &request.listener, id).await?
    };
    let Some(end) = end else {
        return say!(
            "backfill {id} goes on in the listener; `backfill list` shows how far it is, `backfill cancel {id}` ends it"
        );
    };
    match args.output {
        OutputFormat::Json => say!("{}", serde_json::to_string_pretty(&end)?)?,
        OutputFormat::Table if args.detach => {
            say!("backfill {id} is started; a running listener takes it up within seconds")?;
        }
        OutputFormat::Table if end.state == BackfillState::Completed => say!(
            "backfill {id} is completed: {} read, to be delivered if conditions hold",
            counted(end.rows_read, "row", "rows")
        )?,
        OutputFormat::Table => {}
    }
    match end.state {
        BackfillState::Failed => Err(anyhow::anyhow!(
            "backfill {id} has failed: {}; `backfill resume {id}` lets it go on",
            end.error.unwrap_or_default()
        )
        .into()),
        BackfillState::Cancelled => Err(anyhow::anyhow!("backfill {id} was cancelled").into()),
        _ => Ok(()),
    }
}

/// Fails if no observer of the files would receive anything.
fn check_observers(bundle: &Bundle, table: &str, only: Option<&str>) -> Result<(), CliError> {
    let reads =
        |one: &&ObserverConfig| one.entity == table && one.operations.contains(&Operation::Read);
    if let Some(name) = only {
        if !reads(&observer_of(bundle, name)?) {
            return Err(CliError::Config(format!(
                "observer {name} does not watch Read of {table}: add Read to its spec.events.operations"
            )));
        }
    } else if !bundle.observers.iter().any(|one| reads(&one)) {
        return Err(CliError::Config(format!(
            "no observer of the listener watches Read of {table}: add Read to spec.events.operations of one"
        )));
    }
    Ok(())
}

async fn one(pool: &PgPool, listener: &str, id: i64) -> Result<Option<Backfill>, CliError> {
    Ok(backfill::list(pool, listener, Some(id)).await?.pop())
}

/// Shows how far a backfill is until it is over; nothing where that was interrupted.
async fn follow(pool: &PgPool, listener: &str, id: i64) -> Result<Option<Backfill>, CliError> {
    let stop: CancellationToken = watch::stop_on_interrupt()?;
    let mut progress = None;
    let (begun, mut is_remarked) = (Instant::now(), false);
    while !stop.is_cancelled() {
        let Some(found) = one(pool, listener, id).await? else {
            return Err(anyhow::anyhow!("backfill {id} was deleted with its listener").into());
        };
        let state = format!("  {}", found.state.as_str());
        progress
            .get_or_insert_with(|| Progress::new(("row", "rows"), expected(&found)))
            .show(found.rows_read, &state);
        if found.state.is_over() {
            return Ok(Some(found));
        }
        let is_late = found.state == BackfillState::Pending && begun.elapsed() >= REMARK_AFTER;
        if is_late && !is_remarked {
            is_remarked = true;
            logs::say(
                "\nno process of the listener works on it yet: is it running, and is another backfill before it?\n",
            );
        }
        stop.run_until_cancelled(sleep(LOOK_INTERVAL)).await;
    }
    Ok(None)
}

/// Returns about how many rows it will read, if that is known.
fn expected(found: &Backfill) -> Option<u64> {
    found.estimated_rows.filter(|_| found.filters.is_empty())
}

const HEAD: [&str; 8] = [
    "ID",
    "TABLE",
    "STATE",
    "READ",
    "ABOUT",
    "RATE",
    "REQUESTED",
    "ERROR",
];

async fn list(database: DatabaseArgs, output: OutputFormat) -> Result<(), CliError> {
    let (pool, listener) = open_database_of_listener(&database.resolve().await?).await?;
    let all = backfill::list(&pool, &listener, None).await?;
    if matches!(output, OutputFormat::Json) {
        return say!("{}", serde_json::to_string_pretty(&all)?);
    }
    if all.is_empty() {
        return say!("listener {listener} has no backfills");
    }
    let number = |number: Option<u64>| number.map_or_else(|| "-".to_owned(), |n| n.to_string());
    let rows: Vec<[String; 8]> = all
        .iter()
        .map(|one| {
            [
                one.id.to_string(),
                one_line(&one.entity),
                one.state.as_str().to_owned(),
                one.rows_read.to_string(),
                number(one.estimated_rows),
                number(one.rate.map(u64::from)),
                time(one.requested_at),
                one_line(one.error.as_deref().unwrap_or("-")),
            ]
        })
        .collect();
    print(HEAD, &rows)
}
