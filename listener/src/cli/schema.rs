//! `migrate`, `reset-position` and `drop-listener`.

use clap::{Args, ValueEnum};
use crds::config::Redacted;
use observer_listener::checkpoint::stored_rows;
use observer_listener::coordination::live_processes;
use observer_listener::database::{self, DatabaseError};
use observer_listener::migrate;
use observer_listener::runtime::cluster;
use sqlx::PgPool;

use super::output::{agreed, counted, say};
use super::{CliError, DatabaseArgs};

#[derive(Debug, Args)]
pub(super) struct MigrateArgs {
    #[command(flatten)]
    database: DatabaseArgs,
}

#[derive(Debug, Args)]
pub(super) struct ResetPositionArgs {
    #[command(flatten)]
    database: DatabaseArgs,
    /// Where the listener goes on
    #[arg(long, value_enum, default_value_t)]
    to: Target,
    /// Really do it, where that repeats or skips events
    #[arg(long)]
    yes: bool,
}

#[derive(Clone, Copy, Debug, Default, ValueEnum)]
enum Target {
    /// With all that the log still holds; what was delivered before is delivered again
    #[default]
    Earliest,
    /// Where it was, in a database that kept its transaction ids (`pg_upgrade`, a physical copy)
    Stored,
    /// With what is committed from now on
    Latest,
}

#[derive(Debug, Args)]
pub(super) struct DropListenerArgs {
    #[command(flatten)]
    database: DatabaseArgs,
    /// Really delete them
    #[arg(long)]
    yes: bool,
    /// It is known to have ended: look for no sign of life, and let nothing be there to remove
    #[arg(long, requires = "yes")]
    gone: bool,
}

/// Creates or upgrades the schema.
pub(super) async fn migrate(args: MigrateArgs) -> Result<(), CliError> {
    let (url, _) = args.database.resolve()?;
    let migrated = migrate::migrate(&connect(&url).await?).await?;
    if migrated.from != migrated.to {
        say!(
            "the schema `observer` went from version {} to {}",
            migrated.from,
            migrated.to
        )?;
    } else if migrated.functions {
        say!(
            "the functions of the schema `observer` were renewed (version {})",
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
    let (pool, listener) = of_one(args.database).await?;
    refuse_while_alive(&pool, &listener, "reset-position").await?;
    let kept = stored_rows::count_rows(&pool, &listener).await?;
    if kept.has_not_run() {
        return Err(unknown(&pool, &listener).await?);
    }
    let events = kept.events.of("event");
    let (target, said, risk) = match args.to {
        Target::Earliest => (
            "earliest",
            "all that the log still holds",
            Some(format!(
                "up to {events} that the log still holds would be delivered again, those that were delivered before \
                 and effects that take place exactly once included"
            )),
        ),
        Target::Stored => ("stored", "where it was", None),
        Target::Latest => (
            "latest",
            "what is committed from now on",
            Some(format!(
                "of {events} that the log still holds, those that were not delivered yet would never be"
            )),
        ),
    };
    if let Some(risk) = risk {
        agreed(args.yes, &format!("listener {listener}: {risk}"))?;
    }
    sqlx::query("select observer.reset_position($1, $2)")
        .bind(&listener)
        .bind(target)
        .execute(&pool)
        .await?;
    say!("listener {listener} goes on with {said}")
}

/// Deletes all that is kept of a listener.
pub(super) async fn drop_listener(args: DropListenerArgs) -> Result<(), CliError> {
    if args.gone {
        return drop_gone(args.database).await;
    }
    let (pool, listener) = of_one(args.database).await?;
    refuse_while_alive(&pool, &listener, "drop-listener").await?;
    let kept = stored_rows::count_rows(&pool, &listener).await?;
    if kept.is_empty() {
        return Err(unknown(&pool, &listener).await?);
    }
    let risk = format!(
        "listener {listener}: its progress in {}, {}, {} in the database and the memory of {} would be deleted for good; \
         run again under this name, it begins anew, and delivers again what the log still holds, {} now",
        kept.shards.of("shard"),
        kept.dead_letters.of("dead letter"),
        kept.jobs.of("job"),
        kept.processed_deliveries.of("exactly-once effect"),
        kept.events.of("event"),
    );
    agreed(args.yes, &risk)?;
    let rows: i64 = sqlx::query_scalar("select observer.drop_listener($1)")
        .bind(&listener)
        .fetch_one(&pool)
        .await?;
    let rows = counted(rows.unsigned_abs(), "row", "rows");
    say!("listener {listener} is dropped: {rows} deleted")
}

/// The same of one that whoever asks knows to have ended, as the operator does.
async fn drop_gone(database: DatabaseArgs) -> Result<(), CliError> {
    let (url, listener) = database.resolve()?;
    let listener = listener.ok_or_else(|| {
        CliError::Config("name the listener with --listener NAME, or its files with -f FILE".into())
    })?;
    let rows = cluster::drop_listener(&connect(&url).await?, &listener).await?;
    let rows = counted(rows.unsigned_abs(), "row", "rows");
    say!("listener {listener} is dropped: {rows} deleted")
}

/// The database, and the listener where one is named: one that only its name tells of must be there,
/// as a name that is mistyped has nothing to show.
pub(super) async fn of_known(database: DatabaseArgs) -> Result<(PgPool, Option<String>), CliError> {
    let from_files = !database.files.is_empty();
    let (url, listener) = database.resolve()?;
    let pool = connect(&url).await?;
    migrate::verify(&pool).await?;
    if let Some(listener) = listener.as_deref().filter(|_| !from_files)
        && !stored_rows::listeners(&pool)
            .await?
            .iter()
            .any(|one| one == listener)
    {
        return Err(unknown(&pool, listener).await?);
    }
    Ok((pool, listener))
}

/// The database, and the one listener that a command is about.
pub(super) async fn of_one(database: DatabaseArgs) -> Result<(PgPool, String), CliError> {
    let (pool, listener) = of_known(database).await?;
    match listener {
        Some(listener) => Ok((pool, listener)),
        None => Err(unnamed(
            &pool,
            "name the listener with --listener NAME, or its files with -f FILE",
        )
        .await?),
    }
}

/// The error of a command that needs the name of a listener, with those that there are.
pub(super) async fn unnamed(pool: &PgPool, what_to_do: &str) -> Result<CliError, CliError> {
    Ok(CliError::Config(format!(
        "{what_to_do}; {}",
        known(pool).await?
    )))
}

/// The error of a command about a listener of which nothing is kept.
async fn unknown(pool: &PgPool, listener: &str) -> Result<CliError, CliError> {
    let known = known(pool).await?;
    Ok(
        anyhow::anyhow!("there is nothing of a listener {listener} in this database; {known}")
            .into(),
    )
}

async fn known(pool: &PgPool) -> Result<String, sqlx::Error> {
    let names = stored_rows::listeners(pool).await?;
    Ok(if names.is_empty() {
        "no listener has run in this database yet".to_owned()
    } else {
        format!("in this database there are {}", names.join(", "))
    })
}

/// What a running listener holds in memory would undo or repeat what is done behind its back.
async fn refuse_while_alive(pool: &PgPool, listener: &str, command: &str) -> Result<(), CliError> {
    let names = live_processes::present(pool, listener).await?;
    if names.is_empty() {
        return Ok(());
    }
    Err(anyhow::anyhow!(
        "listener {listener} is running: {}. Stop these processes (in a cluster, delete the ObserverListener or scale \
         it to 0) and repeat `{command}`; one that was killed counts as running until its lease has run out. \
         Where you know better, `select observer.{function}('{listener}')` in the database does not ask",
        names.join(", "),
        function = command.replace('-', "_"),
    )
    .into())
}

/// Connects; a URL that cannot be read is the configuration's fault.
pub(super) async fn connect(url: &Redacted) -> Result<PgPool, CliError> {
    database::connect(url, database::START_PATIENCE, database::Access::Look)
        .await
        .map_err(|error| match error {
            DatabaseError::Url(_) => CliError::Config(error.to_string()),
            error => error.into(),
        })
}
