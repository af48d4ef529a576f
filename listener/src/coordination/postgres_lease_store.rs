//! Lease store in Postgres, for processes outside a cluster. This module owns `observer.lease`.
//!
//! A row holds a Lease as Kubernetes writes it, so that everything else is the same in both places. Changes
//! are polled a few times a second, or once a second while no other process takes part, and at once after
//! a write of this process.

use crate::sync::lock;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use futures::future::BoxFuture;
use futures::{StreamExt as _, stream};
use k8s_openapi::api::coordination::v1::Lease;
use lease::{LeaseEvent, LeaseEvents, LeaseStore, LeaseWatch, StoreError};
use sqlx::pool::PoolConnection;
use sqlx::postgres::PgRow;
use sqlx::{AssertSqlSafe, PgPool, Postgres, Row};
use tokio::sync::Notify;

/// Interval of polls for changes.
const POLL_INTERVAL: Duration = Duration::from_millis(200);

/// Interval while a process holds all Leases, which is how long a joining process may wait for it.
const POLL_INTERVAL_ALONE: Duration = Duration::from_secs(1);

/// Draws the version of a write; the writes of a listener wait for each other here. The count starts at
/// the time in microseconds, so that versions go up even after all rows were deleted: a process that has
/// seen the earlier ones would take lower versions for older ones.
const WRITE: &str = "
    with write as (
        insert into observer.lease as l (listener, name, version, lease)
        values ($1, '', (extract(epoch from clock_timestamp()) * 1e6)::bigint, '{}')
        on conflict (listener, name) do update set version = l.version + 1
        returning version
    )";

/// Versions of a listener's Leases by their names.
type Versions = BTreeMap<String, i64>;

/// Versions of a listener's Leases that this process knows.
#[derive(Debug, Default)]
struct KnownVersions {
    /// As the last list or watch returned them.
    seen: Versions,
    /// Writes of this process that no watch has returned yet.
    written: Versions,
}

/// Lease store of one listener.
#[derive(Clone, Debug)]
pub struct PostgresLeaseStore {
    pool: PgPool,
    listener: Arc<str>,
    known: Arc<Mutex<KnownVersions>>,
    /// Notified of each write of this process, which its watch should return soon.
    wrote_own: Arc<Notify>,
}

impl PostgresLeaseStore {
    /// Creates the store of a listener, by its identity.
    #[must_use]
    pub fn new(pool: PgPool, listener: &str) -> Self {
        Self {
            pool,
            listener: Arc::from(listener),
            known: Arc::default(),
            wrote_own: Arc::default(),
        }
    }

    /// Returns a connection. To open one may take longer than the timeout of a call: opening goes on after
    /// that, and the next call finds the connection open.
    async fn connection(&self) -> Result<PoolConnection<Postgres>, StoreError> {
        let pool = self.pool.clone();
        let opened = tokio::spawn(async move { pool.acquire().await });
        let opened = opened.await.unwrap_or(Err(sqlx::Error::WorkerCrashed));
        opened.map_err(other)
    }

    async fn one(&self, name: &str) -> Result<Option<Lease>, StoreError> {
        let row = sqlx::query(
            "select name, version, lease::text from observer.lease where listener = $1 and name = $2",
        )
        .bind(&*self.listener)
        .bind(name)
        .fetch_optional(&mut *self.connection().await?)
        .await
        .map_err(other)?;
        row.as_ref().map(read).transpose()
    }

    /// Reads all Leases in the order of their versions, and the version of the last write.
    async fn all(&self) -> Result<(Vec<Lease>, i64), StoreError> {
        let rows = sqlx::query(
            "select name, version, lease::text from observer.lease where listener = $1 order by version",
        )
        .bind(&*self.listener)
        .fetch_all(&mut *self.connection().await?)
        .await
        .map_err(other)?;
        let mut leases = rows.iter().map(read).collect::<Result<Vec<_>, _>>()?;
        let last = leases.iter().map(version).max().unwrap_or(0);
        leases.retain(|lease| !name(lease).is_empty());
        Ok((leases, last))
    }

    /// Takes in all Leases and the version of the last write, and returns what has changed since the last
    /// time: writes first, as a process that ends releases its shards before it deletes its own Lease.
    ///
    /// A Lease that this process has written and another has deleted before it was seen here cannot be
    /// returned as changes, since the caller would take the deletion for an earlier one: then all Leases
    /// have to be listed again.
    fn changes(&self, leases: Vec<Lease>, last: i64) -> Vec<Result<LeaseEvent, StoreError>> {
        let now: Versions = leases
            .iter()
            .map(|lease| (name(lease), version(lease)))
            .collect();
        let mut known = self.known();
        let KnownVersions { seen, written } = &mut *known;
        let is_lost =
            |(name, version): (&String, &i64)| *version <= last && !now.contains_key(name);
        let expired = written.iter().any(is_lost).then_some(StoreError::Expired);
        written.retain(|_, version| *version > last);
        let gone = seen.keys().filter(|name| !now.contains_key(*name));
        let gone: Vec<LeaseEvent> = gone.cloned().map(LeaseEvent::Deleted).collect();
        let new = leases
            .into_iter()
            .filter(|lease| seen.get(&name(lease)) != Some(&version(lease)));
        let changes = new.map(LeaseEvent::Applied).chain(gone).map(Ok);
        let changes = changes.chain(expired.map(Err)).collect();
        *seen = now;
        changes
    }

    fn known(&self) -> MutexGuard<'_, KnownVersions> {
        lock(&self.known)
    }

    /// Remembers a write of this process.
    fn wrote(&self, row: &PgRow) -> Result<Lease, StoreError> {
        let lease = read(row)?;
        let mut known = self.known();
        known.written.insert(name(&lease), version(&lease));
        Ok(lease)
    }
}

impl LeaseStore for PostgresLeaseStore {
    fn get<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Option<Lease>, StoreError>> {
        Box::pin(self.one(name))
    }

    fn create<'a>(&'a self, lease: &'a Lease) -> BoxFuture<'a, Result<Lease, StoreError>> {
        Box::pin(async move {
            let sql = format!(
                "{WRITE} insert into observer.lease (listener, name, version, lease)
                 select $1, $2, write.version, $3::json from write
                 on conflict do nothing returning name, version, lease::text"
            );
            let row = sqlx::query(AssertSqlSafe(sql))
                .bind(&*self.listener)
                .bind(name(lease))
                .bind(text(lease)?)
                .fetch_optional(&mut *self.connection().await?)
                .await
                .map_err(other)?;
            self.wrote_own.notify_one();
            self.wrote(&row.ok_or(StoreError::Conflict)?)
        })
    }

    fn replace<'a>(
        &'a self,
        name: &'a str,
        lease: &'a Lease,
    ) -> BoxFuture<'a, Result<Lease, StoreError>> {
        Box::pin(async move {
            let sql = format!(
                "{WRITE} update observer.lease l set lease = $4::json, version = write.version
                 from write where l.listener = $1 and l.name = $2 and l.version = $3
                 returning l.name, l.version, l.lease::text"
            );
            let row = sqlx::query(AssertSqlSafe(sql))
                .bind(&*self.listener)
                .bind(name)
                .bind(version(lease))
                .bind(text(lease)?)
                .fetch_optional(&mut *self.connection().await?)
                .await
                .map_err(other)?;
            self.wrote_own.notify_one();
            match row {
                Some(row) => self.wrote(&row),
                None if self.one(name).await?.is_some() => Err(StoreError::Conflict),
                None => Err(StoreError::Missing),
            }
        })
    }

    fn delete<'a>(
        &'a self,
        name: &'a str,
        version: &'a str,
    ) -> BoxFuture<'a, Result<(), StoreError>> {
        Box::pin(async move {
            let sql = format!(
                "{WRITE} delete from observer.lease l
                 using write where l.listener = $1 and l.name = $2 and l.version::text = $3"
            );
            let deleted = sqlx::query(AssertSqlSafe(sql))
                .bind(&*self.listener)
                .bind(name)
                .bind(version)
                .execute(&mut *self.connection().await?)
                .await
                .map_err(other)?;
            self.wrote_own.notify_one();
            match deleted.rows_affected() {
                0 if self.one(name).await?.is_some() => Err(StoreError::Conflict),
                0 => Err(StoreError::Missing),
                _ => {
                    self.known().written.remove(name);
                    Ok(())
                }
            }
        })
    }

    fn watch<'a>(
        &'a self,
        name: &'a str,
        version: &'a str,
    ) -> BoxFuture<'a, Result<LeaseWatch, StoreError>> {
        let (rows, name) = (self.clone(), name.to_owned());
        let seen = version.parse::<i64>().ok();
        Box::pin(async move {
            let looks = stream::unfold((rows, name, seen), |(rows, name, seen)| async move {
                tokio::time::sleep(POLL_INTERVAL).await;
                let found = rows.one(&name).await;
                let now = match &found {
                    Ok(lease) => lease.as_ref().map(self::version),
                    Err(_) => seen,
                };
                let wrote_own = found.map(|lease| (now != seen).then_some(lease));
                Some((wrote_own.transpose(), (rows, name, now)))
            });
            Ok(looks.filter_map(std::future::ready).boxed())
        })
    }

    fn list(&self) -> BoxFuture<'_, Result<(Vec<Lease>, String), StoreError>> {
        Box::pin(async move {
            let (leases, last) = self.all().await?;
            let _known_now = self.changes(leases.clone(), last);
            Ok((leases, last.to_string()))
        })
    }

    /// From the last list on, or from where the last one that followed has come.
    fn watch_all<'a>(&'a self, _: &'a str) -> BoxFuture<'a, Result<LeaseEvents, StoreError>> {
        let rows = self.clone();
        Box::pin(async move {
            let looks = stream::unfold((rows, POLL_INTERVAL), |(rows, pause)| async move {
                let _either = tokio::time::timeout(pause, rows.wrote_own.notified()).await;
                let (changes, pause) = match rows.all().await {
                    Ok((leases, last)) => {
                        let pause = pause_after(&leases);
                        (rows.changes(leases, last), pause)
                    }
                    Err(error) => (vec![Err(error)], POLL_INTERVAL),
                };
                Some((stream::iter(changes), (rows, pause)))
            });
            Ok(looks.flatten().boxed())
        })
    }
}

fn pause_after(leases: &[Lease]) -> Duration {
    let specs = leases.iter().filter_map(|lease| lease.spec.as_ref());
    let mut holders = specs.filter_map(|spec| spec.holder_identity.as_deref());
    let first = holders.next();
    if holders.all(|holder| Some(holder) == first) {
        POLL_INTERVAL_ALONE
    } else {
        POLL_INTERVAL
    }
}

fn name(lease: &Lease) -> String {
    lease.metadata.name.clone().unwrap_or_default()
}

/// No row has version 0.
fn version(lease: &Lease) -> i64 {
    let version = lease.metadata.resource_version.as_deref();
    version
        .and_then(|version| version.parse().ok())
        .unwrap_or(0)
}

fn text(lease: &Lease) -> Result<String, StoreError> {
    serde_json::to_string(lease).map_err(|error| StoreError::Other(error.into()))
}

fn read(row: &PgRow) -> Result<Lease, StoreError> {
    let version: i64 = row.try_get(1).map_err(other)?;
    let text: &str = row.try_get(2).map_err(other)?;
    let mut lease: Lease =
        serde_json::from_str(text).map_err(|error| StoreError::Other(error.into()))?;
    lease.metadata.name = Some(row.try_get(0).map_err(other)?);
    lease.metadata.resource_version = Some(version.to_string());
    Ok(lease)
}

fn other(error: sqlx::Error) -> StoreError {
    StoreError::Other(error.into())
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::coordination::v1::LeaseSpec;

    use super::*;

    fn held_by(holder: Option<&str>) -> Lease {
        let holder_identity = holder.map(str::to_owned);
        Lease {
            spec: Some(LeaseSpec {
                holder_identity,
                ..LeaseSpec::default()
            }),
            ..Lease::default()
        }
    }

    #[test]
    fn process_polls_slowly_only_while_it_holds_all_leases() {
        let after = |holders: &[Option<&str>]| {
            pause_after(&holders.iter().copied().map(held_by).collect::<Vec<_>>())
        };
        assert_eq!(after(&[Some("a"), Some("a"), None]), POLL_INTERVAL_ALONE);
        assert_eq!(after(&[Some("a"), Some("b")]), POLL_INTERVAL);
        assert_eq!(
            after(&[Some(""), Some("a")]),
            POLL_INTERVAL,
            "one is given up"
        );
    }
}
