//! `migrate`, `reset-position` and `drop-listener`.

use clap::{Args, ValueEnum};
use crds::config::{Redacted, SearchBackend, SearchConfig, SourceConfig};
use observer_listener::checkpoint::stored_rows;
use observer_listener::coordination::live_processes;
use observer_listener::database::{self, DatabaseError};
use observer_listener::ingest::removal;
use observer_listener::migrate;
use observer_listener::runtime::cluster::{self, RemovalLimits};
use sqlx::PgPool;

use super::output::{confirm, counted, say};
use super::{CliError, DatabaseArgs, NamedDatabase};

#[derive(Debug, Args)]
pub(super) struct MigrateArgs {
    #[command(flatten)]
    database: DatabaseArgs,
}

#[derive(Debug, Args)]
pub(super) struct ResetPositionArgs {
    #[command(flatten)]
    database: DatabaseArgs,
    /// Position from which the listener continues
    #[arg(long, value_enum, default_value_t)]
    to: ResetTarget,
    /// Confirm that events are repeated or skipped
    #[arg(long)]
    yes: bool,
}

#[derive(Clone, Copy, Debug, Default, ValueEnum)]
enum ResetTarget {
    /// All events in the change log, including those that were delivered before
    #[default]
    Earliest,
    /// The stored position, in a database that kept its transaction ids (`pg_upgrade`, a physical copy)
    Stored,
    /// Only events that are committed from now on
    Latest,
}

#[derive(Debug, Args)]
pub(super) struct DropListenerArgs {
    #[command(flatten)]
    database: DatabaseArgs,
    /// Confirm the deletion
    #[arg(long)]
    yes: bool,
    /// Skip the check for running processes, and succeed if there is nothing to delete; documents of a history in
    /// Elasticsearch are removed if files are given
    #[arg(long, requires = "yes")]
    gone: bool,
}

/// Creates or upgrades the schema.
pub(super) async fn migrate(args: MigrateArgs) -> Result<(), CliError> {
    let database = args.database.resolve().await?;
    let migrated = migrate::migrate(&connect(&database.url).await?).await?;
    if migrated.from != migrated.to {
        say!(
            "upgraded the schema `observer` from version {} to {}",
            migrated.from,
            migrated.to
        )?;
    } else if migrated.functions {
        say!(
            "updated the functions of the schema `observer` (version {})",
            migrated.to
        )?;
    } else {
        say!(
            "the schema `observer` is up to date (version {})",
            migrated.to
        )?;
    }
    if let Some(advice) = migrated.advice {
        say!("warning: {advice}")?;
    }
    Ok(())
}

/// Resets a listener's stored positions.
pub(super) async fn reset_position(args: ResetPositionArgs) -> Result<(), CliError> {
    let (pool, listener) = open_database_of_listener(&args.database.resolve().await?).await?;
    require_stopped(&pool, &listener, "reset-position").await?;
    let kept = stored_rows::count_rows(&pool, &listener).await?;
    if kept.has_not_run() {
        return Err(unknown_listener(&pool, &listener).await?);
    }
    let events = kept.events.of("event");
    let (target, events_from, risk) = match args.to {
        ResetTarget::Earliest => (
            "earliest",
            "all events in the change log",
            Some(format!(
                "up to {events} in the change log would be delivered again, including those that were delivered before \
                 and exactly-once effects"
            )),
        ),
        ResetTarget::Stored => ("stored", "its stored position", None),
        ResetTarget::Latest => (
            "latest",
            "events committed from now on",
            Some(format!(
                "of {events} in the change log, those that were not delivered yet would never be delivered"
            )),
        ),
    };
    if let Some(risk) = risk {
        confirm(args.yes, &format!("listener {listener}: {risk}")).await?;
    }
    sqlx::query("select observer.reset_position($1, $2)")
        .bind(&listener)
        .bind(target)
        .execute(&pool)
        .await?;
    say!("listener {listener} continues with {events_from}")
}

/// Deletes all data of a listener.
pub(super) async fn drop_listener(args: DropListenerArgs) -> Result<(), CliError> {
    let database = args.database.resolve().await?;
    let config = database.bundle.as_ref().map(|bundle| &bundle.listener);
    let search = config.and_then(|config| config.search.as_ref());
    let source = config.map(|config| &config.source);
    if args.gone {
        return drop_unchecked(&database, (search, source)).await;
    }
    let (pool, listener) = open_database_of_listener(&database).await?;
    require_stopped(&pool, &listener, "drop-listener").await?;
    let kept = stored_rows::count_rows(&pool, &listener).await?;
    if kept.is_empty() {
        return Err(unknown_listener(&pool, &listener).await?);
    }
    let risk = format!(
        "listener {listener}: its checkpoints of {}, {}, {} in the database and the records of {} would be deleted \
         permanently{}; if it runs again under this name, it starts over and delivers all events in the change log again, {} now",
        kept.shards.of("shard"),
        kept.dead_letters.of("dead letter"),
        kept.jobs.of("job"),
        kept.processed_deliveries.of("exactly-once effect"),
        search.map_or("", |_| ", and its history with them"),
        kept.events.of("event"),
    );
    confirm(args.yes, &risk).await?;
    drop_rows_and_documents(&pool, &listener, (search, source)).await
}

/// Deletes all data of a listener without a check for running processes, as the operator does.
async fn drop_unchecked(
    database: &NamedDatabase,
    elsewhere: (Option<&SearchConfig>, Option<&SourceConfig>),
) -> Result<(), CliError> {
    let listener = database.listener.as_ref().ok_or_else(|| {
        CliError::Config("name the listener with --listener NAME, or its files with -f FILE".into())
    })?;
    drop_rows_and_documents(&connect(&database.url).await?, listener, elsewhere).await
}

/// Deletes the rows of a listener, the slot of its source if it is the last that has it, and the documents of its
/// history, where it has one.
async fn drop_rows_and_documents(
    pool: &PgPool,
    listener: &str,
    (search, source): (Option<&SearchConfig>, Option<&SourceConfig>),
) -> Result<(), CliError> {
    let is_elsewhere = |config: &&SearchConfig| config.backend != SearchBackend::Postgres;
    if let Some(config) = search.filter(|config| !is_elsewhere(config)) {
        // Part by part, as there may be millions. What is left, and what is wrong, the statement below finds.
        let index = search::open(config, pool.clone())?;
        let limits = RemovalLimits::DEFAULT;
        if let Err(error) = cluster::remove_documents(&*index, listener, limits).await {
            tracing::debug!(%error, "documents are left to the last statement");
        }
    }
    let rows = cluster::drop_listener(pool, listener).await?;
    let rows = counted(rows.unsigned_abs(), "row", "rows");
    if let Some(source) = source
        && let Some(name) = removal::drop_unused(pool, source).await?
    {
        let kind = if source.wal().is_some() {
            "replication slot"
        } else {
            "source"
        };
        say!("the {kind} {name} is dropped, as no other listener has it")?;
    }
    let Some(config) = search.filter(is_elsewhere) else {
        return say!("listener {listener} is dropped: {rows} deleted");
    };
    let index = search::open(config, pool.clone())?;
    cluster::remove_documents(&*index, listener, RemovalLimits::DEFAULT).await?;
    say!("listener {listener} is dropped: {rows} deleted, and its documents in the search index")
}

/// Connects to the database; returns the listener too if one is given. One that is given by name alone must
/// exist in the database, since the name may be mistyped.
pub(super) async fn open_database(
    database: &NamedDatabase,
) -> Result<(PgPool, Option<String>), CliError> {
    let listener = database.listener.clone();
    let pool = connect(&database.url).await?;
    migrate::verify(&pool).await?;
    if let (Some(listener), None) = (listener.as_deref(), &database.bundle)
        && !stored_rows::listeners(&pool)
            .await?
            .iter()
            .any(|one| one == listener)
    {
        return Err(unknown_listener(&pool, listener).await?);
    }
    Ok((pool, listener))
}

/// Connects to the database of a command that needs a listener.
pub(super) async fn open_database_of_listener(
    database: &NamedDatabase,
) -> Result<(PgPool, String), CliError> {
    let (pool, listener) = open_database(database).await?;
    match listener {
        Some(listener) => Ok((pool, listener)),
        None => Err(listener_required(
            &pool,
            "name the listener with --listener NAME, or its files with -f FILE",
        )
        .await?),
    }
}

/// Returns the error of a command that needs the name of a listener, with the known ones.
pub(super) async fn listener_required(pool: &PgPool, advice: &str) -> Result<CliError, CliError> {
    Ok(CliError::Config(format!(
        "{advice}; {}",
        known_listeners(pool).await?
    )))
}

/// Returns the error of a command for a listener without data.
async fn unknown_listener(pool: &PgPool, listener: &str) -> Result<CliError, CliError> {
    let known = known_listeners(pool).await?;
    Ok(
        anyhow::anyhow!("there is nothing of a listener {listener} in this database; {known}")
            .into(),
    )
}

async fn known_listeners(pool: &PgPool) -> Result<String, sqlx::Error> {
    let names = stored_rows::listeners(pool).await?;
    Ok(if names.is_empty() {
        "no listener has run in this database yet".to_owned()
    } else {
        format!("in this database there are {}", names.join(", "))
    })
}

/// Fails while the listener runs, since its state in memory would undo or repeat the change.
async fn require_stopped(pool: &PgPool, listener: &str, command: &str) -> Result<(), CliError> {
    let names = live_processes::present(pool, listener).await?;
    if names.is_empty() {
        return Ok(());
    }
    Err(anyhow::anyhow!(
        "listener {listener} is running: {}. Stop these processes (in a cluster, delete the ObserverListener or scale \
         it to 0) and repeat `{command}`; a killed process counts as running until its lease expires. To skip this \
         check, run `select observer.{function}('{listener}')` in the database",
        names.join(", "),
        function = command.replace('-', "_"),
    )
    .into())
}

/// Connects to a database. An invalid URL is an error of the configuration.
pub(super) async fn connect(url: &Redacted) -> Result<PgPool, CliError> {
    database::connect(
        url,
        database::START_PATIENCE,
        database::AccessMode::ReadOnly,
    )
    .await
    .map_err(|error| match error {
        DatabaseError::Url(_) => CliError::Config(error.to_string()),
        error => error.into(),
    })
}
