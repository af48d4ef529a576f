//! Connections to the database, and what to say when there are none.

mod address;
pub(crate) mod pins;
pub(crate) mod session;

use std::time::Duration;

use chrono::{DateTime, SecondsFormat, Utc};
use crds::config::Redacted;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{Connection, PgConnection, PgPool};
use tokio::time::Instant;

pub use address::{foreign_options, options};
pub use session::Unwritable;
use session::{unwritable, writing};

/// Most connections that a listener opens: one reads, one saves, the others are for what comes seldom.
const MAX_CONNECTIONS: u32 = 4;

/// Most connections for Leases: one follows them, the other writes.
const LEASE_CONNECTIONS: u32 = 2;

/// Most connections for work on jobs: one claims, one tells, one gives signs of life.
const JOB_CONNECTIONS: u32 = 3;

/// Most connections for whoever looks after dead letters and jobs over HTTP.
const ADMIN_CONNECTIONS: u32 = 2;

/// Most connections of a process that runs, besides those of Postgres actions and of keepers.
const CONNECTIONS_PER_PROCESS: u32 = MAX_CONNECTIONS + LEASE_CONNECTIONS + JOB_CONNECTIONS;

/// No connection is left, as Postgres codes it.
const TOO_MANY_CONNECTIONS: &str = "53300";

/// How long one of these is kept open that nobody uses.
const ADMIN_IDLE_TIMEOUT: Duration = Duration::from_mins(1);

/// How long a statement waits for a connection before it counts as failed.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a start waits for a server that refuses connections, as one that restarts does, or does
/// not answer, as one on a busy machine.
pub const START_PATIENCE: Duration = Duration::from_secs(10);

/// Between two tries to connect at the start.
const CONNECT_RETRY_INTERVAL: Duration = Duration::from_millis(500);

/// The reader's queries have one good plan each, whatever the statistics say at the moment: walk an
/// index from where it stands, and fetch rows by their place. With these the planner finds it on an
/// empty table too, and plans once.
const PLANS: &str = "
    set enable_seqscan = off; set enable_bitmapscan = off; set enable_sort = off;
    set enable_tidscan = on;
    set jit = off; set plan_cache_mode = force_generic_plan";

/// Why there is no connection. No message holds the URL.
#[derive(Debug, thiserror::Error)]
pub enum DatabaseError {
    /// The URL is none.
    #[error(
        "the database URL cannot be read ({0}): write it as postgres://user:password@host:5432/database"
    )]
    Url(String),
    /// The server cannot be reached.
    #[error(
        "cannot reach Postgres at {at}: {source}. Is the server running, and are host and port right?"
    )]
    Unreachable {
        /// Host and port.
        at: String,
        /// The error.
        source: sqlx::Error,
    },
    /// The server refuses the user, the password or the database.
    #[error(
        "Postgres at {at} refuses the connection: {source}. Check user, password and database in the URL"
    )]
    Refused {
        /// Host and port.
        at: String,
        /// The error.
        source: sqlx::Error,
    },
    /// The server, the database or the role has no connection left.
    #[error(
        "Postgres at {at} has no connection left: {source}. Raise max_connections of the server, or the connection \
         limit of the role or the database, or run fewer processes: each needs {needed}"
    )]
    Full {
        /// Host and port.
        at: String,
        /// How many a process needs.
        needed: u32,
        /// The error.
        source: sqlx::Error,
    },
    /// A pooler gives the transactions of one connection to different sessions.
    #[error(
        "Postgres at {at} is behind a pooler that gives each transaction another session (as PgBouncer's \
         `pool_mode = transaction`): this program's sessions have settings of their own, which others would get. Lead \
         the database URL to the server itself, or to a pool with `pool_mode = session`"
    )]
    Pooled {
        /// Host and port.
        at: String,
    },
    /// The server takes no writes.
    #[error("cannot work with Postgres at {at}: {why}")]
    Unwritable {
        /// Host and port.
        at: String,
        /// Why it takes none.
        #[source]
        why: Unwritable,
    },
}

/// Access that connections need.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AccessMode {
    /// Work, which needs a server that takes writes.
    ReadWrite,
    /// Reads, and writes that may fail.
    ReadOnly,
}

/// Connects, and says why when that fails. A server that refuses connections, as one does that is
/// about to start, is given so much time; one that takes long to answer too, and one that takes no
/// writes where there are to be some.
pub async fn connect(
    url: &Redacted,
    patience: Duration,
    access: AccessMode,
) -> Result<PgPool, DatabaseError> {
    let options = options(url)?;
    let at = format!("{}:{}", options.get_host(), options.get_port());
    let deadline = Instant::now() + patience;
    let mut told = false;
    loop {
        let tried = match of_its_own(&options).await {
            Ok(None) => return Err(DatabaseError::Pooled { at }),
            Ok(Some(first)) => in_time(greet(first, access)).await,
            Err(error) => Err(error),
        };
        let Err(error) = tried else {
            return Ok(pool(options, MAX_CONNECTIONS, access));
        };
        if !starting(&error) || Instant::now() >= deadline {
            return Err(explained(at, error));
        }
        if !told {
            tracing::warn!(%at, %error, "cannot reach Postgres; retrying for {} s", patience.as_secs());
            told = true;
        }
        tokio::time::sleep(CONNECT_RETRY_INTERVAL).await;
    }
}

/// Sets a session up and says goodbye.
async fn greet(mut connection: PgConnection, access: AccessMode) -> Result<(), sqlx::Error> {
    session::begin(&mut connection, access).await?;
    // Whether the goodbye arrives does not matter.
    let _ = connection.close().await;
    Ok(())
}

/// A connection with a session of its own; none where two that are open at once are served by one
/// session, or one by two, as only a pooler has it that gives sessions to transactions. Nothing is set
/// in them.
async fn of_its_own(options: &PgConnectOptions) -> Result<Option<PgConnection>, sqlx::Error> {
    in_time(async {
        let mut one = PgConnection::connect_with(options).await?;
        // Where there is room for one connection only, others find out.
        let Ok(mut other) = PgConnection::connect_with(options).await else {
            return Ok(Some(one));
        };
        let first = session::number(&mut one).await?;
        let second = session::number(&mut other).await?;
        let pooled = first == second || first != session::number(&mut one).await?;
        let _ = other.close().await;
        if pooled {
            let _ = one.close().await;
            return Ok(None);
        }
        Ok(Some(one))
    })
    .await
}

async fn in_time<T>(
    trying: impl Future<Output = Result<T, sqlx::Error>>,
) -> Result<T, sqlx::Error> {
    let tried = tokio::time::timeout(ACQUIRE_TIMEOUT, trying).await;
    tried.unwrap_or_else(|_| {
        Err(sqlx::Error::Io(std::io::Error::new(
            std::io::ErrorKind::TimedOut,
            format!("no answer within {} s", ACQUIRE_TIMEOUT.as_secs()),
        )))
    })
}

fn explained(at: String, error: sqlx::Error) -> DatabaseError {
    if let Some(why) = unwritable(&error) {
        return DatabaseError::Unwritable {
            at,
            why: why.clone(),
        };
    }
    match error {
        sqlx::Error::Database(_) if has_code(&error, &[TOO_MANY_CONNECTIONS]) => {
            DatabaseError::Full {
                at,
                needed: CONNECTIONS_PER_PROCESS,
                source: error,
            }
        }
        sqlx::Error::Database(_) if !starting(&error) => {
            DatabaseError::Refused { at, source: error }
        }
        _ => DatabaseError::Unreachable { at, source: error },
    }
}

/// Why a pool's database cannot be worked with now, in words, if so. The pool itself only knows that
/// no connection came in time.
pub(crate) async fn trouble(pool: &PgPool) -> Option<String> {
    let why = cause(&pool.connect_options()).await;
    why.map(|why| why.to_string())
}

/// Why a database cannot be worked with now, if so.
pub(crate) async fn trouble_at(url: &Redacted) -> Option<DatabaseError> {
    match options(url) {
        Ok(options) => cause(&options).await,
        Err(error) => Some(error),
    }
}

async fn cause(options: &PgConnectOptions) -> Option<DatabaseError> {
    let at = format!("{}:{}", options.get_host(), options.get_port());
    let tried = in_time(async {
        let connection = PgConnection::connect_with(options).await?;
        greet(connection, AccessMode::ReadWrite).await
    });
    let tried = tried.await;
    tried.err().map(|error| explained(at, error))
}

/// Whether the server refused something with one of these codes (SQLSTATE).
pub(crate) fn has_code(error: &sqlx::Error, codes: &[&str]) -> bool {
    let told = error
        .as_database_error()
        .and_then(sqlx::error::DatabaseError::code);
    told.is_some_and(|told| codes.contains(&&*told))
}

/// Whether an error is one that a starting or restarting server gives, or a busy one; one that stops
/// breaks off.
fn starting(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Io(error) => {
            matches!(
                error.kind(),
                std::io::ErrorKind::ConnectionRefused
                    | std::io::ErrorKind::ConnectionReset
                    | std::io::ErrorKind::BrokenPipe
                    | std::io::ErrorKind::UnexpectedEof
                    | std::io::ErrorKind::TimedOut
                    | std::io::ErrorKind::ReadOnlyFilesystem
            )
        }
        sqlx::Error::Database(_) => has_code(error, &["57P03", TOO_MANY_CONNECTIONS]),
        _ => false,
    }
}

/// Who keeps this program's statements waiting, in words, if anybody does. No statement is told,
/// as it may hold values.
pub(crate) async fn blocker(pool: &PgPool) -> Result<Option<String>, sqlx::Error> {
    let found: Option<(i32, String, String, DateTime<Utc>)> = sqlx::query_as(
        "select blocker.pid, coalesce(blocker.usename, ''), coalesce(blocker.application_name, ''),
                coalesce(blocker.xact_start, blocker.backend_start)
         from pg_stat_activity waiting
         cross join lateral unnest(pg_blocking_pids(waiting.pid)) as blocking(pid)
         join pg_stat_activity blocker on blocker.pid = blocking.pid
         where waiting.application_name = 'observer-listener' and waiting.datname = current_database()
             and waiting.wait_event_type = 'Lock' and blocker.application_name <> 'observer-listener'
         order by blocker.xact_start limit 1",
    )
    .fetch_optional(pool)
    .await?;
    Ok(found.map(|(pid, user, application, since)| {
        let since = since.to_rfc3339_opts(SecondsFormat::Secs, true);
        format!(
            "process {pid} of user {user} (application {application:?}) holds a lock in a transaction that has been \
             open since {since}; end it, or have it ended by select pg_terminate_backend({pid})"
        )
    }))
}

/// A few connections for what must not wait for anything else, such as Leases.
pub fn lease_pool(url: &Redacted) -> Result<PgPool, DatabaseError> {
    Ok(simple(LEASE_CONNECTIONS).connect_lazy_with(options(url)?))
}

/// Connections for work on jobs, which goes on whatever becomes of the shards.
pub fn job_pool(url: &Redacted) -> Result<PgPool, DatabaseError> {
    Ok(pool(options(url)?, JOB_CONNECTIONS, AccessMode::ReadWrite))
}

/// Connections for whoever looks after dead letters and jobs over HTTP; closed while nobody does.
pub fn admin_pool(url: &Redacted) -> Result<PgPool, DatabaseError> {
    let pool = simple(ADMIN_CONNECTIONS).idle_timeout(ADMIN_IDLE_TIMEOUT);
    Ok(pool.connect_lazy_with(options(url)?))
}

/// Connections that write, by plans of the server's choice.
fn simple(most: u32) -> PgPoolOptions {
    writing(PgPoolOptions::new())
        .max_connections(most)
        .acquire_timeout(ACQUIRE_TIMEOUT)
        .after_connect(|connection, _| Box::pin(session::begin(connection, AccessMode::ReadWrite)))
}

fn pool(options: PgConnectOptions, most: u32, access: AccessMode) -> PgPool {
    let pool = PgPoolOptions::new()
        .max_connections(most)
        .acquire_timeout(ACQUIRE_TIMEOUT)
        // A poll every few milliseconds would otherwise be two.
        .test_before_acquire(false)
        .after_connect(move |connection, _| {
            Box::pin(async move {
                session::begin(&mut *connection, access).await?;
                sqlx::raw_sql(PLANS).execute(connection).await.map(drop)
            })
        });
    let pool = match access {
        AccessMode::ReadWrite => writing(pool),
        AccessMode::ReadOnly => pool,
    };
    pool.connect_lazy_with(options)
}
