//! Sessions of the listener's own: with settings that do not depend on the role's, only with a server
//! that takes writes, and given up once it takes none any more.
//!
//! A name may lead to a standby for a moment, and a database may be read-only for one. Whoever
//! connects then reads well and can save nothing, for as long as the connection lives, although a new
//! one would do.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use sqlx::postgres::PgPoolOptions;
use sqlx::{AssertSqlSafe, PgConnection, Row};
use tokio::time::Instant;

use super::{AccessMode, pins};
use crate::sync::lock;

/// How often one of a pool's connections is asked whether its server takes writes.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// A read-only default that is the role's own is no wish of whoever runs the database, and this
/// program cannot work with it.
const WRITE_DESPITE_ROLE: &str = "
    select pg_catalog.set_config('default_transaction_read_only', 'off', false)
    from pg_catalog.pg_settings
    where name = 'default_transaction_read_only' and source in ('user', 'database user')";

/// Whether the server is a standby, and whether transactions are read-only, and on whose account.
const LOOK: &str = "
    select pg_catalog.pg_is_in_recovery(), s.setting = 'on', s.source
    from pg_catalog.pg_settings s where s.name = 'transaction_read_only'
    union all
    select null, s.setting = 'on', s.source
    from pg_catalog.pg_settings s where s.name = 'default_transaction_read_only'";

/// Why a server takes no writes.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unwritable {
    /// It follows another.
    #[error(
        "the server is a standby and takes no writes: lead the name in the database URL to the primary, or promote it"
    )]
    Standby,
    /// It was told to take none.
    #[error(
        "the database is read-only (default_transaction_read_only is on, by {0}): end what it is read-only for, \
         such as a full disk, and set it off"
    )]
    ReadOnly(String),
}

impl From<Unwritable> for sqlx::Error {
    fn from(why: Unwritable) -> Self {
        let kind = std::io::ErrorKind::ReadOnlyFilesystem;
        Self::Io(std::io::Error::new(kind, why))
    }
}

/// Why the server took no writes, where that is what an error says.
pub(crate) fn unwritable(error: &sqlx::Error) -> Option<&Unwritable> {
    match error {
        sqlx::Error::Io(error) => error.get_ref()?.downcast_ref(),
        _ => None,
    }
}

/// Sets a new session up, and makes sure that it can write where it is to.
pub(crate) async fn begin(
    connection: &mut PgConnection,
    access: AccessMode,
) -> Result<(), sqlx::Error> {
    sqlx::raw_sql(AssertSqlSafe(pins::of_session()))
        .execute(&mut *connection)
        .await?;
    write_despite_role(connection).await?;
    if access == AccessMode::ReadOnly {
        return Ok(());
    }
    match look(connection).await? {
        Some(why) => Err(why.into()),
        None => Ok(()),
    }
}

/// The number of the server's process, asked for without a statement's name, which behind a pooler may
/// be anybody's.
pub(super) async fn number(connection: &mut PgConnection) -> Result<i32, sqlx::Error> {
    let asked = sqlx::raw_sql("select pg_catalog.pg_backend_pid()");
    asked.fetch_one(connection).await?.try_get(0)
}

/// Lets a session write whose role does not by default.
pub(crate) async fn write_despite_role(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    let set = sqlx::raw_sql(WRITE_DESPITE_ROLE);
    set.execute(connection).await.map(drop)
}

/// Why its server takes no writes now, if so.
async fn look(connection: &mut PgConnection) -> Result<Option<Unwritable>, sqlx::Error> {
    let rows = sqlx::query(LOOK).fetch_all(connection).await?;
    let mut by = String::from("the session");
    let mut read_only = false;
    for row in &rows {
        if row.try_get::<Option<bool>, _>(0)? == Some(true) {
            return Ok(Some(Unwritable::Standby));
        }
        if row.try_get(1)? {
            read_only = true;
            by = row.try_get(2)?;
        }
    }
    Ok(read_only.then_some(Unwritable::ReadOnly(by)))
}

/// When a pool's connections were looked at, and which of them are given up.
#[derive(Debug, Default)]
struct Watch {
    looked: Option<Instant>,
    /// Those that were opened before.
    given_up: Option<Instant>,
}

/// What is to be done with a connection before it is used.
#[derive(Debug, PartialEq, Eq)]
enum Turn {
    Use,
    Look,
    GiveUp,
}

impl Watch {
    fn turn(&mut self, opened: Instant, now: Instant) -> Turn {
        if self.given_up.is_some_and(|before| opened <= before) {
            return Turn::GiveUp;
        }
        if self.looked.is_some_and(|last| now < last + LOOK_EVERY) {
            return Turn::Use;
        }
        self.looked = Some(now);
        Turn::Look
    }
}

/// Options of a pool whose connections can write: all are given up as soon as one is found that
/// cannot, and none is used before it can. That costs one small question in a second, however much
/// the pool is used.
pub(crate) fn writing(options: PgPoolOptions) -> PgPoolOptions {
    let watch = Arc::new(Mutex::new(Watch::default()));
    options.before_acquire(move |connection, metadata| {
        let watch = Arc::clone(&watch);
        Box::pin(async move {
            let now = Instant::now();
            let opened = now.checked_sub(metadata.age).unwrap_or(now);
            let turn = held(&watch, |watch| watch.turn(opened, now));
            if turn == Turn::Look
                && let Some(why) = look(connection).await?
            {
                tracing::warn!(%why, "giving up the connections to the database");
                held(&watch, |watch| watch.given_up = Some(now));
                return Ok(false);
            }
            Ok(turn != Turn::GiveUp)
        })
    })
}

fn held<T>(watch: &Mutex<Watch>, change: impl FnOnce(&mut Watch) -> T) -> T {
    change(&mut lock(watch))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_that_cannot_write_takes_those_before_it_along() {
        let (mut watch, start) = (Watch::default(), Instant::now());
        let at = |seconds| start + Duration::from_millis(seconds);
        assert_eq!(watch.turn(start, at(0)), Turn::Look);
        assert_eq!(watch.turn(start, at(10)), Turn::Use);
        assert_eq!(watch.turn(start, at(1000)), Turn::Look);
        watch.given_up = Some(at(1000));
        assert_eq!(watch.turn(start, at(1010)), Turn::GiveUp);
        assert_eq!(watch.turn(at(1005), at(1010)), Turn::Use);
        assert_eq!(watch.turn(at(1005), at(2010)), Turn::Look);
    }

    #[test]
    fn why_there_are_no_writes_is_found_in_an_error() {
        let error = sqlx::Error::from(Unwritable::Standby);
        assert_eq!(unwritable(&error), Some(&Unwritable::Standby));
        assert_eq!(unwritable(&sqlx::Error::PoolTimedOut), None);
    }
}
