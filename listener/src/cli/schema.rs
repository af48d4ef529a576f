//! `migrate`, `rebase` and `forget`.

use clap::{Args, ValueEnum};
use crds::config::Redacted;
use observer_listener::database::{self, DatabaseError};
use observer_listener::migrate;
use sqlx::PgPool;

use super::{CliError, DatabaseArgs};

#[derive(Debug, Args)]
pub(super) struct MigrateArgs {
    #[command(flatten)]
    database: DatabaseArgs,
}

#[derive(Debug, Args)]
pub(super) struct RebaseArgs {
    #[command(flatten)]
    database: DatabaseArgs,
    /// Where to go on
    #[arg(long, value_enum, default_value_t)]
    resume: Resume,
}

#[derive(Clone, Copy, Debug, Default, ValueEnum)]
enum Resume {
    /// With all that the log still holds; what was delivered before is delivered again
    #[default]
    Beginning,
    /// Where it was, in a database that kept its transaction ids (`pg_upgrade`, a physical copy)
    Position,
    /// With what is committed from now on
    Now,
}

#[derive(Debug, Args)]
pub(super) struct ForgetArgs {
    #[command(flatten)]
    database: DatabaseArgs,
    /// Really remove them
    #[arg(long)]
    yes: bool,
}

/// Makes or renews the schema.
pub(super) async fn migrate(args: MigrateArgs) -> Result<(), CliError> {
    let (url, _) = args.database.resolve()?;
    let migrated = migrate::migrate(&connect(&url).await?).await?;
    if migrated.from == migrated.to {
        println!(
            "the schema `observer` is up to date (version {})",
            migrated.to
        );
    } else {
        println!(
            "the schema `observer` went from version {} to {}",
            migrated.from, migrated.to
        );
    }
    Ok(())
}

/// Sets a listener's positions anew.
pub(super) async fn rebase(args: RebaseArgs) -> Result<(), CliError> {
    let (url, listener) = args.database.resolve()?;
    let listener = listener.ok_or_else(|| {
        CliError::Config(
            "name the listener with --listener NAME, or its files with -f FILE".to_owned(),
        )
    })?;
    let pool = connect(&url).await?;
    migrate::verify(&pool).await?;
    let (resume, said) = match args.resume {
        Resume::Beginning => ("beginning", "all that the log still holds"),
        Resume::Position => ("position", "where it was"),
        Resume::Now => ("now", "what is committed from now on"),
    };
    sqlx::query("select observer.rebase($1, $2)")
        .bind(&listener)
        .bind(resume)
        .execute(&pool)
        .await?;
    println!("listener {listener} goes on with {said}");
    Ok(())
}

/// Removes all that is kept of a listener.
pub(super) async fn forget(args: ForgetArgs) -> Result<(), CliError> {
    let (url, listener) = args.database.resolve()?;
    let listener = listener.ok_or_else(|| {
        CliError::Config(
            "name the listener with --listener NAME, or its files with -f FILE".to_owned(),
        )
    })?;
    if !args.yes {
        return Err(CliError::Config(format!(
            "this removes the progress and the dead letters of listener {listener} for good; repeat it with --yes"
        )));
    }
    let pool = connect(&url).await?;
    migrate::verify(&pool).await?;
    let rows: i64 = sqlx::query_scalar("select observer.forget($1)")
        .bind(&listener)
        .fetch_one(&pool)
        .await?;
    println!("listener {listener} is forgotten: {rows} rows removed");
    Ok(())
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
