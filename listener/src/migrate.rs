//! Migration of the schema `observer` to the version that this program was built with: tables by steps that
//! are each applied once, functions by files that are applied again when they differ.
//!
//! All of it is one transaction that holds the table of steps: several programs may start at once, and
//! a failure leaves the database as it was.

mod capture_role;
mod functions;

use std::sync::LazyLock;

use sqlx::migrate::Migrator;
use sqlx::{AssertSqlSafe, Connection, PgConnection, PgPool, Postgres, Transaction};

use crate::database::{has_code, pins, session};
use crate::migrate::capture_role::CAPTURE_ROLE;

/// Oldest server that works, as `server_version_num` counts.
const OLDEST_SERVER: i32 = 140_000;

/// Timeout for a concurrent migration.
const SET_LOCK_TIMEOUT: &str = "set local lock_timeout = '5min'";

/// SQLSTATEs of something that was created concurrently: a row, a schema, a table.
const CREATED_CONCURRENTLY: [&str; 3] = ["23505", "42P06", "42P07"];

/// Maximum number of attempts because of that.
const MAX_ATTEMPTS: u32 = 10;

/// The first step of builds from before all steps became one.
const SUPERSEDED_STEP: &str = "tables";

/// SQLSTATE `insufficient_privilege`.
const INSUFFICIENT_PRIVILEGE: &str = "42501";

static MIGRATOR: LazyLock<Migrator> = LazyLock::new(|| {
    let mut migrator = sqlx::migrate!("../migrations");
    migrator.dangerous_set_table_name("observer.migration");
    // That is an advisory lock, which any role that can connect may hold. The schema's own table serves.
    migrator.set_locking(false);
    migrator
});

/// Versions before and after a migration; 0 is a database without the schema.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Migrated {
    /// Version before.
    pub from: i64,
    /// Version now.
    pub to: i64,
    /// Whether the functions of the schema were replaced.
    pub functions: bool,
    /// What to change about the privileges that capture runs with.
    pub advice: Option<String>,
}

/// Why a database cannot be used as it is.
#[derive(Debug, thiserror::Error)]
pub enum MigrateError {
    /// The server lacks what the log needs.
    #[error("the server is Postgres {0}; version 14 or newer is needed")]
    OldServer(String),
    /// Texts of the database may have no form that could be sent.
    #[error(
        "the database's encoding is {0}, in which texts may hold bytes that stand for nothing: one such row \
         could never be read; restore it into a database with the encoding UTF8"
    )]
    Encoding(String),
    /// The schema is not there.
    #[error("the database has no schema `observer`: run `observer-listener migrate`")]
    Missing,
    /// The schema is older than the program.
    #[error(
        "the database's schema `observer` is at version {found}, older than this program \
         ({needed}): run `observer-listener migrate`"
    )]
    Older {
        /// Version in the database.
        found: i64,
        /// Version of the program.
        needed: i64,
    },
    /// The schema is newer than the program.
    #[error(
        "the database's schema `observer` is at version {found}, newer than this program \
         ({known}): use a newer observer-listener"
    )]
    Newer {
        /// Version in the database.
        found: i64,
        /// Version of the program.
        known: i64,
    },
    /// The schema is that of a build from before all steps became one.
    #[error(
        "the database's schema `observer` was made by a development build whose {steps} steps are one now. Stop its \
         listeners when all is delivered (`observer-listener status` of that build says so); note which tables are \
         tracked (`table observer.tracked`); `drop schema observer cascade`, which ends that; then run \
         `observer-listener migrate` and track them again. Or use a new database"
    )]
    Superseded {
        /// How many steps it had.
        steps: i64,
    },
    /// The functions of the schema are those of an older program, or of another build of this version.
    #[error(
        "the functions of the database's schema `observer` are not those of this program ({needed}): run \
         `observer-listener migrate`"
    )]
    OlderFunctions {
        /// Version of the program.
        needed: String,
    },
    /// The functions of the schema are those of a newer program.
    #[error(
        "the functions of the database's schema `observer` are those of observer-listener {found}, newer than this \
         program ({known}): use a newer observer-listener"
    )]
    NewerFunctions {
        /// Version of the program that applied them.
        found: String,
        /// Version of this program.
        known: String,
    },
    /// A user's object depends on functions that cannot stay as they are.
    #[error(
        "the functions of the schema `observer` cannot be replaced, since something in the database depends on them: \
         {what}. Drop that, run `observer-listener migrate`, and create it again"
    )]
    InUse {
        /// What Postgres says.
        what: String,
    },
    /// The schema was made by other steps than the program's, such as a development build's.
    #[error(
        "version {0} of the database's schema `observer` was made by other steps than this \
         program's: use the observer-listener that made it"
    )]
    Changed(i64),
    /// There is a schema of that name that is not ours.
    #[error(
        "the database has a schema `observer` with tables of another origin: rename or drop it, \
         since the name is needed"
    )]
    Foreign,
    /// The user may not do what is needed.
    #[error("{message}; {remedy}")]
    Privilege {
        /// What Postgres says.
        message: String,
        /// What to grant.
        remedy: String,
        /// The error.
        source: sqlx::Error,
    },
    /// The database could not be asked or a step failed.
    #[error("cannot look at or migrate the schema `observer`: {}", ::queue::describe_error(.0))]
    Database(#[source] sqlx::Error),
    /// A step failed.
    #[error("cannot migrate the schema `observer`: {0}")]
    Step(#[source] sqlx::migrate::MigrateError),
}

/// Creates or upgrades the schema `observer`; does nothing if it is up to date.
pub async fn migrate(pool: &PgPool) -> Result<Migrated, MigrateError> {
    let mut connection = pool.acquire().await.map_err(MigrateError::Database)?;
    let mut attempts = 1;
    loop {
        match migrate_locked(&mut connection).await {
            Err(error) if attempts < MAX_ATTEMPTS && is_created_concurrently(&error) => {
                attempts += 1;
            }
            Err(error) => return Err(explain(error, &mut connection).await),
            migrated => return migrated,
        }
    }
}

/// Returns whether a concurrent migration has created the schema, whose lock is to be waited for now.
fn is_created_concurrently(error: &MigrateError) -> bool {
    let MigrateError::Database(source) = error else {
        return false;
    };
    let refused = source.as_database_error();
    let code = refused.and_then(sqlx::error::DatabaseError::code);
    code.is_some_and(|code| CREATED_CONCURRENTLY.contains(&&*code))
}

/// Separates errors of the database in a step from other errors of a step.
fn in_step(error: sqlx::migrate::MigrateError) -> MigrateError {
    use sqlx::migrate::MigrateError as Step;
    match error {
        Step::Execute(source) | Step::ExecuteMigration(source, _) => MigrateError::Database(source),
        other => MigrateError::Step(other),
    }
}

/// Fails with the remedy unless the schema `observer` is exactly the one that this program needs.
pub async fn verify(pool: &PgPool) -> Result<(), MigrateError> {
    let mut connection = pool.acquire().await.map_err(MigrateError::Database)?;
    match check(&mut connection).await {
        Err(error) => Err(explain(error, &mut connection).await),
        Ok(()) => Ok(()),
    }
}

async fn check(connection: &mut PgConnection) -> Result<(), MigrateError> {
    let mut transaction = begin(connection).await?;
    check_server(&mut transaction).await?;
    let applied = applied(&mut transaction).await?;
    let (found, needed) = (latest(&applied), known());
    check_applied(&applied)?;
    match found {
        0 => Err(MigrateError::Missing),
        found if found < needed => Err(MigrateError::Older { found, needed }),
        _ if functions::are_current(&mut transaction).await? => Ok(()),
        _ => Err(functions::outdated()),
    }
}

/// Begins a transaction in which neither the role's settings nor foreign objects in its schemas change what
/// a statement means.
async fn begin(connection: &mut PgConnection) -> Result<Transaction<'_, Postgres>, MigrateError> {
    let pinned = async {
        let begun = connection.begin_with("begin isolation level read committed");
        let mut transaction = begun.await?;
        sqlx::raw_sql(AssertSqlSafe(pins::of_migration()))
            .execute(&mut *transaction)
            .await?;
        Ok(transaction)
    };
    pinned.await.map_err(MigrateError::Database)
}

async fn migrate_locked(connection: &mut PgConnection) -> Result<Migrated, MigrateError> {
    session::write_despite_role(connection)
        .await
        .map_err(MigrateError::Database)?;
    let mut transaction = begin(connection).await?;
    check_server(&mut transaction).await?;
    lock(&mut transaction)
        .await
        .map_err(MigrateError::Database)?;
    let applied = applied(&mut transaction).await?;
    check_applied(&applied)?;
    let (from, to) = (latest(&applied), known());
    if from < to {
        create_schema(&mut transaction).await?;
        MIGRATOR
            .run_direct(None, &mut *transaction, false)
            .await
            .map_err(in_step)?;
    }
    let replaced = !functions::are_current(&mut transaction).await?;
    if replaced {
        functions::apply(&mut transaction).await?;
    }
    let advice = capture_role::give(&mut transaction)
        .await
        .map_err(MigrateError::Database)?;
    transaction.commit().await.map_err(MigrateError::Database)?;
    Ok(Migrated {
        from,
        to,
        functions: replaced,
        advice,
    })
}

/// Waits until no other migration is in progress. Before the table of steps exists, creating it waits.
async fn lock(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    sqlx::query(SET_LOCK_TIMEOUT)
        .execute(&mut *connection)
        .await?;
    let there: bool = sqlx::query_scalar("select to_regclass('observer.migration') is not null")
        .fetch_one(&mut *connection)
        .await?;
    if there {
        sqlx::query("lock table observer.migration in share row exclusive mode")
            .execute(connection)
            .await?;
    }
    Ok(())
}

/// Creates the schema unless a role with more privileges has created it for this one.
async fn create_schema(connection: &mut PgConnection) -> Result<(), MigrateError> {
    let (exists, foreign): (bool, bool) = sqlx::query_as(
        "select n.oid is not null,
                exists (select 1 from pg_class c where c.relnamespace = n.oid)
                    and to_regclass('observer.migration') is null
         from (select to_regnamespace('observer') as oid) n",
    )
    .fetch_one(&mut *connection)
    .await
    .map_err(MigrateError::Database)?;
    if foreign {
        return Err(MigrateError::Foreign);
    }
    if !exists {
        sqlx::query("create schema observer")
            .execute(connection)
            .await
            .map_err(MigrateError::Database)?;
    }
    Ok(())
}

async fn check_server(connection: &mut PgConnection) -> Result<(), MigrateError> {
    let (number, name, encoding): (i32, String, String) = sqlx::query_as(
        "select current_setting('server_version_num')::int, current_setting('server_version'),
                current_setting('server_encoding')",
    )
    .fetch_one(connection)
    .await
    .map_err(MigrateError::Database)?;
    if number < OLDEST_SERVER {
        Err(MigrateError::OldServer(name))
    } else if encoding != "UTF8" {
        Err(MigrateError::Encoding(encoding))
    } else {
        Ok(())
    }
}

/// A step that was applied to the database.
#[derive(Debug, sqlx::FromRow)]
struct AppliedStep {
    version: i64,
    description: String,
    checksum: Vec<u8>,
}

/// Reads the steps that were applied, in order.
async fn applied(connection: &mut PgConnection) -> Result<Vec<AppliedStep>, MigrateError> {
    let exists: bool = sqlx::query_scalar(
        "select exists (
            select 1 from pg_class c join pg_namespace n on n.oid = c.relnamespace
            where n.nspname = 'observer' and c.relname = 'migration')",
    )
    .fetch_one(&mut *connection)
    .await
    .map_err(MigrateError::Database)?;
    if !exists {
        return Ok(Vec::new());
    }
    sqlx::query_as("select version, description, checksum from observer.migration order by version")
        .fetch_all(connection)
        .await
        .map_err(MigrateError::Database)
}

fn latest(applied: &[AppliedStep]) -> i64 {
    applied.last().map_or(0, |step| step.version)
}

fn known() -> i64 {
    MIGRATOR.iter().map(|step| step.version).max().unwrap_or(0)
}

fn check_applied(applied: &[AppliedStep]) -> Result<(), MigrateError> {
    let (found, known) = (latest(applied), known());
    if applied
        .first()
        .is_some_and(|step| step.description == SUPERSEDED_STEP)
    {
        return Err(MigrateError::Superseded { steps: found });
    }
    if found > known {
        return Err(MigrateError::Newer { found, known });
    }
    let same = |applied: &AppliedStep| {
        MIGRATOR
            .iter()
            .any(|step| step.version == applied.version && *step.checksum == *applied.checksum)
    };
    match applied.iter().find(|step| !same(step)) {
        Some(step) => Err(MigrateError::Changed(step.version)),
        None => Ok(()),
    }
}

/// Adds to a missing privilege what to grant.
async fn explain(error: MigrateError, connection: &mut PgConnection) -> MigrateError {
    let MigrateError::Database(source) = error else {
        return error;
    };
    let lacks_rights = has_code(&source, &[INSUFFICIENT_PRIVILEGE]);
    let Some(refused) = source.as_database_error().filter(|_| lacks_rights) else {
        return MigrateError::Database(source);
    };
    let message = refused.message().to_owned();
    let names: Result<(String, String, bool, bool), _> = sqlx::query_as(
        "select pg_catalog.quote_ident(pg_catalog.current_database()), pg_catalog.quote_ident(current_user),
                n.oid is not null,
                coalesce(pg_catalog.pg_has_role(n.nspowner, 'usage'), false) and exists (
                    select from pg_catalog.pg_roles r
                    where r.rolname = 'observer_capture' and not pg_catalog.pg_has_role(r.oid, 'usage'))
         from (select) one left join pg_catalog.pg_namespace n on n.nspname = 'observer'",
    )
    .fetch_one(connection)
    .await;
    let remedy = match names {
        // What captures belongs to a role of its own, unless the one that migrated could not make that.
        Ok((_, user, true, true)) => {
            format!(
                "let an administrator run `grant {CAPTURE_ROLE} to {user}`, or migrate as a superuser"
            )
        }
        Ok((_, user, true, false)) => format!(
            "migrate as the owner of the schema `observer`, or grant its owner's role to {user}"
        ),
        Ok((database, user, false, _)) => format!(
            "let an administrator run `grant create on database {database} to {user}` or \
             `create schema observer authorization {user}`"
        ),
        Err(_) => "connect as the owner of the database".to_owned(),
    };
    MigrateError::Privilege {
        message,
        remedy,
        source,
    }
}
