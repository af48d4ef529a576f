//! Database sessions: with settings that do not depend on the role's, only with a server that takes
//! writes, and discarded once it takes none any more.
//!
//! A name may lead to a standby for a moment, and a database may be read-only for one. A connection of that
//! moment reads well and can save nothing for as long as it lives, although a new one could.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use sqlx::postgres::PgPoolOptions;
use sqlx::{AssertSqlSafe, PgConnection, Row};
use tokio::time::Instant;

use super::{AccessMode, pins};
use crate::sync::lock;

/// Interval at which a pool checks whether its server takes writes.
const WRITABLE_CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// A read-only default of the role itself is not meant for a program that has to write, and this program
/// cannot work with it.
const WRITE_DESPITE_ROLE: &str = "
    select pg_catalog.set_config('default_transaction_read_only', 'off', false)
    from pg_catalog.pg_settings
    where name = 'default_transaction_read_only' and source in ('user', 'database user')";

/// Whether the server is a standby, and whether transactions are read-only.
const WRITABLE: &str = "
    select pg_catalog.pg_is_in_recovery(),
        pg_catalog.current_setting('transaction_read_only')::bool
        or pg_catalog.current_setting('default_transaction_read_only')::bool";

/// Which setting makes transactions read-only. It reads all settings, which is too much for each check.
const READ_ONLY_BY: &str = "
    select s.source
    from pg_catalog.pg_settings s
    where s.name in ('default_transaction_read_only', 'transaction_read_only') and s.setting = 'on'
    order by s.name
    limit 1";

/// Why a server takes no writes.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unwritable {
    /// It is a standby.
    #[error(
        "the server is a standby and takes no writes: lead the name in the database URL to the primary, or promote it"
    )]
    Standby,
    /// It is configured to take none.
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

/// Returns why the server took no writes, if that is the cause of an error.
pub(crate) fn unwritable(error: &sqlx::Error) -> Option<&Unwritable> {
    match error {
        sqlx::Error::Io(error) => error.get_ref()?.downcast_ref(),
        _ => None,
    }
}

/// Sets up a new session, and checks that it can write if it has to.
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
    match check_writable(connection).await? {
        Some(why) => Err(why.into()),
        None => Ok(()),
    }
}

/// Returns the number of the server's process. The statement has no name, as behind a pooler another
/// session may have that.
pub(super) async fn number(connection: &mut PgConnection) -> Result<i32, sqlx::Error> {
    let asked = sqlx::raw_sql("select pg_catalog.pg_backend_pid()");
    asked.fetch_one(connection).await?.try_get(0)
}

/// Lets a session write whose role is read-only by default.
pub(crate) async fn write_despite_role(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    let set = sqlx::raw_sql(WRITE_DESPITE_ROLE);
    set.execute(connection).await.map(drop)
}

/// Returns why the server takes no writes now, if so.
async fn check_writable(connection: &mut PgConnection) -> Result<Option<Unwritable>, sqlx::Error> {
    let row = sqlx::query(WRITABLE).fetch_one(&mut *connection).await?;
    if row.try_get(0)? {
        return Ok(Some(Unwritable::Standby));
    }
    if !row.try_get::<bool, _>(1)? {
        return Ok(None);
    }
    let by: Option<String> = sqlx::query_scalar(READ_ONLY_BY)
        .fetch_optional(connection)
        .await?;
    let by = by.unwrap_or_else(|| String::from("the session"));
    Ok(Some(Unwritable::ReadOnly(by)))
}

/// When a pool was checked last, and which of its connections are discarded.
#[derive(Debug, Default)]
struct PoolWatch {
    checked: Option<Instant>,
    /// Those opened until then.
    discarded: Option<Instant>,
}

/// What happens to a connection before it is used.
#[derive(Debug, PartialEq, Eq)]
enum ConnectionCheck {
    Use,
    Verify,
    Discard,
}

impl PoolWatch {
    fn check(&mut self, opened: Instant, now: Instant) -> ConnectionCheck {
        if self.discarded.is_some_and(|before| opened <= before) {
            return ConnectionCheck::Discard;
        }
        if self
            .checked
            .is_some_and(|last| now < last + WRITABLE_CHECK_INTERVAL)
        {
            return ConnectionCheck::Use;
        }
        self.checked = Some(now);
        ConnectionCheck::Verify
    }
}

/// Returns options of a pool whose connections can write: all are discarded as soon as one is found that
/// cannot, and none is used before it can. That costs one small query a second, however much the pool is
/// used.
pub(crate) fn writing(options: PgPoolOptions) -> PgPoolOptions {
    let watch = Arc::new(Mutex::new(PoolWatch::default()));
    options.before_acquire(move |connection, metadata| {
        let watch = Arc::clone(&watch);
        Box::pin(async move {
            let now = Instant::now();
            let opened = now.checked_sub(metadata.age).unwrap_or(now);
            let check = held(&watch, |watch| watch.check(opened, now));
            if check == ConnectionCheck::Verify
                && let Some(why) = check_writable(connection).await?
            {
                tracing::warn!(%why, "discarding the connections to the database");
                held(&watch, |watch| watch.discarded = Some(now));
                return Ok(false);
            }
            Ok(check != ConnectionCheck::Discard)
        })
    })
}

fn held<T>(watch: &Mutex<PoolWatch>, change: impl FnOnce(&mut PoolWatch) -> T) -> T {
    change(&mut lock(watch))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_before_one_that_cannot_write_are_discarded() {
        let (mut watch, start) = (PoolWatch::default(), Instant::now());
        let at = |seconds| start + Duration::from_millis(seconds);
        assert_eq!(watch.check(start, at(0)), ConnectionCheck::Verify);
        assert_eq!(watch.check(start, at(10)), ConnectionCheck::Use);
        assert_eq!(watch.check(start, at(1000)), ConnectionCheck::Verify);
        watch.discarded = Some(at(1000));
        assert_eq!(watch.check(start, at(1010)), ConnectionCheck::Discard);
        assert_eq!(watch.check(at(1005), at(1010)), ConnectionCheck::Use);
        assert_eq!(watch.check(at(1005), at(2010)), ConnectionCheck::Verify);
    }

    #[test]
    fn error_says_why_there_are_no_writes() {
        let error = sqlx::Error::from(Unwritable::Standby);
        assert_eq!(unwritable(&error), Some(&Unwritable::Standby));
        assert_eq!(unwritable(&sqlx::Error::PoolTimedOut), None);
    }
}
