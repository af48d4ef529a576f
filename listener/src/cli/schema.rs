//! `migrate` and `rebase`.

use clap::Args;
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
    /// Begin with what comes next, instead of with all that the log still holds
    #[arg(long)]
    skip: bool,
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
    sqlx::query("select observer.rebase($1, $2)")
        .bind(&listener)
        .bind(args.skip)
        .execute(&pool)
        .await?;
    let from = if args.skip {
        "what is committed from now on"
    } else {
        "all that the log still holds"
    };
    println!("listener {listener} begins anew with {from}");
    Ok(())
}

/// Connects; a URL that cannot be read is the configuration's fault.
pub(super) async fn connect(url: &Redacted) -> Result<PgPool, CliError> {
    database::connect(url).await.map_err(|error| match error {
        DatabaseError::Url(_) => CliError::Config(error.to_string()),
        error => error.into(),
    })
}
