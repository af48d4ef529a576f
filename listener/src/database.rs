//! Connections to the database, and why there are none.

mod address;
pub(crate) mod pins;
pub(crate) mod session;

use std::time::Duration;

use chrono::{DateTime, SecondsFormat, Utc};
use crds::config::Redacted;
use sqlx::postgres::types::PgInterval;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{Connection, PgConnection, PgPool};
use tokio::time::Instant;

pub use address::{foreign_options, options};
pub use session::Unwritable;
use session::{unwritable, writing};

/// Maximum number of connections of a session: one reads, one saves, the others are for what comes seldom.
const MAX_CONNECTIONS: u32 = 4;

/// Maximum number of connections for Leases: one watches them, the other writes.
const LEASE_CONNECTIONS: u32 = 2;

/// Maximum number of connections of the job worker: one claims, one submits results, one sends heartbeats.
const JOB_CONNECTIONS: u32 = 3;

/// Maximum number of connections of the admin API.
const ADMIN_CONNECTIONS: u32 = 2;

/// Maximum number of connections of the search index in the listener's own database: one writes, the
/// others search.
const SEARCH_CONNECTIONS: u32 = 3;

/// Maximum number of connections of the indexer: one reads the log, the other is for what comes seldom.
const HISTORY_CONNECTIONS: u32 = 2;

/// Maximum number of connections of a process, besides those of Postgres actions, of the
/// admin API and of a history.
const CONNECTIONS_PER_PROCESS: u32 = MAX_CONNECTIONS + LEASE_CONNECTIONS + JOB_CONNECTIONS;

/// SQLSTATE `too_many_connections`.
const TOO_MANY_CONNECTIONS: &str = "53300";

/// How long an unused connection of the admin API stays open.
const ADMIN_IDLE_TIMEOUT: Duration = Duration::from_mins(1);

/// How long a statement waits for a connection before it fails.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a start waits for a server that refuses connections, as during its restart, or that does not
/// answer, as on a busy machine.
pub const START_PATIENCE: Duration = Duration::from_secs(10);

/// Interval of attempts to connect at the start.
const CONNECT_RETRY_INTERVAL: Duration = Duration::from_millis(500);

/// The reader's queries have one good plan each, independent of statistics: walk an index from its
/// position, and fetch rows by ctid. With these settings the planner finds it on an empty table too, and
/// plans once.
const PLANS: &str = "
    set enable_seqscan = off; set enable_bitmapscan = off; set enable_sort = off;
    set enable_tidscan = on;
    set jit = off; set plan_cache_mode = force_generic_plan";

/// Why there is no connection. No message contains the URL.
#[derive(Debug, thiserror::Error)]
pub enum DatabaseError {
    /// The URL is invalid.
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

/// Connects. A server that refuses connections because it is starting, that is slow to answer, or that
/// takes no writes although they are needed, is retried until `patience` has passed.
pub async fn connect(
    url: &Redacted,
    patience: Duration,
    access: AccessMode,
) -> Result<PgPool, DatabaseError> {
    let options = options(url)?;
    let at = format!("{}:{}", options.get_host(), options.get_port());
    let deadline = Instant::now() + patience;
    let mut logged = false;
    loop {
        let tried = match dedicated_connection(&options).await {
            Ok(None) => return Err(DatabaseError::Pooled { at }),
            Ok(Some(first)) => in_time(verify_session(first, access)).await,
            Err(error) => Err(error),
        };
        let Err(error) = tried else {
            return Ok(pool(options, MAX_CONNECTIONS, access));
        };
        if !starting(&error) || Instant::now() >= deadline {
            return Err(explained(at, error));
        }
        if !logged {
            tracing::warn!(%at, %error, "cannot reach Postgres; retrying for {} s", patience.as_secs());
            logged = true;
        }
        tokio::time::sleep(CONNECT_RETRY_INTERVAL).await;
    }
}

/// Sets a session up and closes it.
async fn verify_session(
    mut connection: PgConnection,
    access: AccessMode,
) -> Result<(), sqlx::Error> {
    session::begin(&mut connection, access).await?;
    // Whether it closes in order does not matter.
    let _ = connection.close().await;
    Ok(())
}

/// Opens a connection with a session of its own. Returns none if one session serves two connections that
/// are open at once, or two sessions serve one, which only a pooler by transactions does. Nothing is set in
/// them.
async fn dedicated_connection(
    options: &PgConnectOptions,
) -> Result<Option<PgConnection>, sqlx::Error> {
    in_time(async {
        let mut one = PgConnection::connect_with(options).await?;
        // If there is room for one connection only, a later one fails.
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

/// Returns why a pool's database cannot be used now, if so. The pool itself only knows that no connection
/// came in time.
pub(crate) async fn diagnose(pool: &PgPool) -> Option<String> {
    let why = cause(&pool.connect_options()).await;
    why.map(|why| why.to_string())
}

/// Returns why a database cannot be used now, if so.
pub(crate) async fn diagnose_url(url: &Redacted) -> Option<DatabaseError> {
    match options(url) {
        Ok(options) => cause(&options).await,
        Err(error) => Some(error),
    }
}

async fn cause(options: &PgConnectOptions) -> Option<DatabaseError> {
    let at = format!("{}:{}", options.get_host(), options.get_port());
    let tried = in_time(async {
        let connection = PgConnection::connect_with(options).await?;
        verify_session(connection, AccessMode::ReadWrite).await
    });
    let tried = tried.await;
    tried.err().map(|error| explained(at, error))
}

/// Returns whether the error has one of these codes (SQLSTATE).
pub(crate) fn has_code(error: &sqlx::Error, codes: &[&str]) -> bool {
    let code = error
        .as_database_error()
        .and_then(sqlx::error::DatabaseError::code);
    code.is_some_and(|code| codes.contains(&&*code))
}

/// Returns whether an error is that of a server that starts, restarts, stops or is busy.
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
        sqlx::Error::Database(_) => {
            has_code(error, &["57P01", "57P02", "57P03", TOO_MANY_CONNECTIONS])
        }
        _ => false,
    }
}

/// Returns which transaction blocks this program's statements, if one does. No statement is shown, as it
/// may contain values.
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

/// Opens the pool for Leases, which must not wait for anything else.
pub fn lease_pool(url: &Redacted) -> Result<PgPool, DatabaseError> {
    Ok(simple(LEASE_CONNECTIONS).connect_lazy_with(options(url)?))
}

/// Opens the pool of the job worker, which runs on when shards are lost.
pub fn job_pool(url: &Redacted) -> Result<PgPool, DatabaseError> {
    Ok(pool(options(url)?, JOB_CONNECTIONS, AccessMode::ReadWrite))
}

/// Opens the pool of the admin API, whose connections are closed while it is not used.
pub fn admin_pool(url: &Redacted) -> Result<PgPool, DatabaseError> {
    let pool = simple(ADMIN_CONNECTIONS).idle_timeout(ADMIN_IDLE_TIMEOUT);
    Ok(pool.connect_lazy_with(options(url)?))
}

/// Opens the pool of the search index in the listener's own database.
pub fn search_pool(url: &Redacted) -> Result<PgPool, DatabaseError> {
    let pool = simple(SEARCH_CONNECTIONS).idle_timeout(ADMIN_IDLE_TIMEOUT);
    Ok(pool.connect_lazy_with(options(url)?))
}

/// Opens the pool of the indexer, which reads the change log.
pub fn history_pool(url: &Redacted) -> Result<PgPool, DatabaseError> {
    Ok(pool(
        options(url)?,
        HISTORY_CONNECTIONS,
        AccessMode::ReadWrite,
    ))
}

/// Opens the pool of what follows changes for the cache. No connection is made before one is needed. The second
/// one is for when the first is still busy with a query that was given up.
pub fn cache_pool(url: &Redacted) -> Result<PgPool, DatabaseError> {
    let pool = simple(2).idle_timeout(ADMIN_IDLE_TIMEOUT);
    Ok(pool.connect_lazy_with(options(url)?))
}

/// A slot advances to what is saved, so that must be on the disk.
const DURABLE: &str = "
    select pg_catalog.set_config('synchronous_commit', 'on', false)
    where pg_catalog.current_setting('synchronous_commit') = 'off'";

/// Opens the pool of a source: one appends, and one waits for what others append. No connection is made before
/// one is needed. A commit is on the disk when it is answered.
pub fn source_pool(url: &Redacted) -> Result<PgPool, DatabaseError> {
    let pool = simple(2)
        .idle_timeout(ADMIN_IDLE_TIMEOUT)
        .after_connect(|connection, _| {
            Box::pin(async move {
                session::begin(&mut *connection, AccessMode::ReadWrite).await?;
                sqlx::raw_sql(DURABLE).execute(connection).await.map(drop)
            })
        });
    Ok(pool.connect_lazy_with(options(url)?))
}

/// Returns a duration as Postgres knows it.
#[must_use]
pub(crate) fn interval(duration: Duration) -> PgInterval {
    PgInterval {
        months: 0,
        days: 0,
        microseconds: i64::try_from(duration.as_micros()).unwrap_or(i64::MAX),
    }
}

/// Returns options of connections that write, with plans of the server's choice.
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
