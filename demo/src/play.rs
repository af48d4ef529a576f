//! A demonstration from its beginning to its end: a database, a shop in it, and nothing left of
//! the shop afterwards.

use std::time::Duration;

use crds::config::Redacted;
use sqlx::{ConnectOptions, PgConnection, PgPool};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use crate::screen::Screen;
use crate::shop::{self, Found};
use crate::stage::{self, LISTENER};
use crate::summary;
use listener::database::{self, DatabaseError};
use listener::migrate::{self, MigrateError};
use listener::runtime::error::RunError;
use testkit::servers::binaries::{Binaries, VERSION};
use testkit::servers::postgres::{PrivateServer, ServerError};

/// Longest demonstration. What is remembered of the deliveries grows with its length.
pub(crate) const MAX_DURATION: Duration = Duration::from_hours(4);

/// Name of the lock that keeps demonstrations in one database apart: "shopdemo" in hexadecimal.
const LOCK: i64 = 0x7368_6f70_6465_6d6f;

/// Between two signs of life while the server is made ready.
const SIGN_OF_LIFE: Duration = Duration::from_secs(1);

/// What to demonstrate.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    /// The database to use; one of its own if absent.
    pub(crate) database_url: Option<Redacted>,
    /// When to end; at most, and if absent, after [`MAX_DURATION`].
    pub(crate) duration: Option<Duration>,
    /// Decides what happens in the shop.
    pub(crate) seed: u64,
}

/// Why there is nothing to see.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DemoError {
    /// There is no server.
    #[error(transparent)]
    Server(#[from] ServerError),
    /// There is no connection.
    #[error(transparent)]
    Database(#[from] DatabaseError),
    /// The schema `observer` cannot be made.
    #[error(transparent)]
    Migrate(#[from] MigrateError),
    /// The schema's name is taken.
    #[error(
        "the database has a schema `shop` that no demo made, and that none will touch: name \
         another database with --database-url, or leave it out for one of the demo's own"
    )]
    Taken,
    /// There is another demonstration.
    #[error("another demo is under way in this database: wait for its end, or name another one")]
    Busy,
    /// A statement failed.
    #[error("cannot {doing}: {source}")]
    Sql {
        /// What was tried.
        doing: &'static str,
        /// The error.
        source: sqlx::Error,
    },
    /// The receiver cannot listen.
    #[error("the receiver of webhooks cannot listen on the loopback address: {0}")]
    Sink(#[source] std::io::Error),
    /// The example is not as this program needs it.
    #[error("the example shop.yaml cannot be run: {0}")]
    Example(String),
    /// The listener failed.
    #[error(transparent)]
    Run(#[from] RunError),
    /// The metrics cannot be registered.
    #[error("cannot register the metrics: {0}")]
    Metrics(#[from] prometheus::Error),
    /// The listener does not begin, or ended too early.
    #[error("the listener {0}")]
    Listener(&'static str),
    /// A task died.
    #[error("a task died: {0}")]
    Task(#[from] tokio::task::JoinError),
    /// It was told to stop before anything happened.
    #[error("stopped before the shop opened")]
    Stopped,
}

impl DemoError {
    /// Whether what was given cannot be used, as opposed to what went wrong.
    #[must_use]
    pub(crate) const fn is_config(&self) -> bool {
        matches!(
            self,
            Self::Taken | Self::Busy | Self::Database(DatabaseError::Url(_))
        )
    }
}

/// Names what a statement is for.
pub(crate) fn doing(what: &'static str) -> impl FnOnce(sqlx::Error) -> DemoError {
    move |source| DemoError::Sql {
        doing: what,
        source,
    }
}

/// Plays until its time is over or `stop`, and tells by its summary, and by what it returns,
/// whether everything that should have arrived arrived once and in order.
pub(crate) async fn play(
    options: Options,
    screen: &mut Screen,
    stop: CancellationToken,
) -> Result<bool, DemoError> {
    let (url, server) = if let Some(url) = options.database_url {
        (url, None)
    } else {
        let server = tokio::select! {
            server = start_server(screen) => server?,
            () = stop.cancelled() => return Err(DemoError::Stopped),
        };
        (Redacted::new(server.url("postgres")), Some(server))
    };
    let pool = database::connect(
        &url,
        database::START_PATIENCE,
        database::AccessMode::ReadWrite,
    )
    .await?;
    // Held until it is dropped with everything in the database undone.
    let _alone = alone(&url).await?;
    prepare(&pool).await?;
    let length = options.duration.unwrap_or(MAX_DURATION).min(MAX_DURATION);
    let stage = stage::Stage {
        url: &url,
        pool: &pool,
        length,
        seed: options.seed,
    };
    let played = stage.play(screen, &stop).await;
    let cleaned = match server {
        // All of it goes with the server.
        Some(_) => Ok(()),
        None => clean(&pool).await,
    };
    pool.close().await;
    let outcome = played?;
    screen.say(&summary::of(&outcome));
    cleaned?;
    if server.is_none() {
        screen.say("The schema `shop` is gone from the database; the schema `observer` stays.");
    }
    Ok(outcome.verdict.is_good())
}

/// A server of its own; the first time, its programs are downloaded.
async fn start_server(screen: &mut Screen) -> Result<PrivateServer, DemoError> {
    let what = format!("Starting a Postgres {VERSION}; the first time, it is downloaded");
    screen.say(&what);
    let begun = tokio::time::Instant::now();
    // A task of its own, since unpacking does not let others have a turn.
    let mut start = AbortOnDropHandle::new(tokio::spawn(async {
        PrivateServer::start(&Binaries::Download).await
    }));
    loop {
        tokio::select! {
            server = &mut start => return Ok(server??),
            () = tokio::time::sleep(SIGN_OF_LIFE) => {
                let still = format!("  ... {} s", begun.elapsed().as_secs());
                if screen.is_terminal() {
                    screen.draw(&[still]);
                } else {
                    screen.say(&still);
                }
            }
        }
    }
}

/// A connection that holds the lock.
async fn alone(url: &Redacted) -> Result<PgConnection, DemoError> {
    let look = "look whether another demo is under way";
    let mut connection = database::options(url)?
        .connect()
        .await
        .map_err(doing(look))?;
    let locked: bool = sqlx::query_scalar("select pg_try_advisory_lock($1)")
        .bind(LOCK)
        .fetch_one(&mut connection)
        .await
        .map_err(doing(look))?;
    if locked {
        Ok(connection)
    } else {
        Err(DemoError::Busy)
    }
}

/// Makes the shop, in place of one that was left behind.
async fn prepare(pool: &PgPool) -> Result<(), DemoError> {
    let found = shop::find(pool)
        .await
        .map_err(doing("look for a schema `shop`"))?;
    if found == Found::Theirs {
        return Err(DemoError::Taken);
    }
    migrate::migrate(pool).await?;
    if found == Found::Ours {
        clean(pool).await?;
    }
    shop::make(pool).await.map_err(doing("make the shop"))
}

/// Leaves no trace of the shop and its listener.
async fn clean(pool: &PgPool) -> Result<(), DemoError> {
    shop::unmake(pool).await.map_err(doing("drop the shop"))?;
    sqlx::query("select observer.drop_listener($1)")
        .bind(LISTENER)
        .execute(pool)
        .await
        .map_err(doing("drop the demo's listener"))?;
    Ok(())
}
