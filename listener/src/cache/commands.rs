//! Results that are dropped by hand. This module owns `observer.cache_invalidation`.
//!
//! Each process reads the rows once a second. They are written one at a time, so that the order of their
//! numbers is that of their commits.

use ::queue::sql_transaction;
use schemars::JsonSchema;
use serde::Serialize;
use sqlx::postgres::PgRow;
use sqlx::{PgPool, Row};

use super::invalidation::{Change, Progress, Scope};
use crate::capture::snapshot::Snapshot;

/// How long they are kept: longer than any result lives.
const KEPT_HOURS: i32 = 49;

/// Most rows that are read at once.
const MAX_ROWS: i64 = 1000;

/// What is dropped by hand.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct Invalidation {
    /// Only results of this observer, `namespace/name`.
    pub observer: Option<String>,
    /// Only results of this lookup or action of the observer.
    pub name: Option<String>,
    /// Only results that depend on this entity.
    pub entity: Option<String>,
    /// Only results that depend on the row of the entity with this key.
    pub key: Option<String>,
}

/// Drops results in all processes of a listener, which learn of it within about a second.
pub async fn invalidate(
    pool: &PgPool,
    listener: &str,
    what: &Invalidation,
) -> Result<(), sqlx::Error> {
    let mut tx = sql_transaction::begin(pool).await?;
    sqlx::query("lock table observer.cache_invalidation in share row exclusive mode")
        .execute(&mut *tx)
        .await?;
    sqlx::query(
        "with old as (
             delete from observer.cache_invalidation where created_at < clock_timestamp() - make_interval(hours => $6)
         )
         insert into observer.cache_invalidation (listener, observer, name, entity, key, snapshot)
         values ($1, $2, $3, $4, $5, pg_current_snapshot())",
    )
    .bind(listener)
    .bind(&what.observer)
    .bind(&what.name)
    .bind(&what.entity)
    .bind(&what.key)
    .bind(KEPT_HOURS)
    .execute(&mut *tx)
    .await?;
    tx.commit().await
}

/// Changes that were made by hand.
#[derive(Debug)]
pub(super) struct Commands {
    /// Up to which number they are read.
    pub(super) last: i64,
    pub(super) changes: Vec<(Change, Progress)>,
    /// Whether there are more than were read.
    pub(super) more: bool,
}

/// Reads what was dropped by hand after this number.
pub(super) async fn read_after(
    pool: &PgPool,
    listener: &str,
    last: i64,
) -> Result<Commands, sqlx::Error> {
    let rows = sqlx::query(
        "select id, observer, name, entity, key, snapshot::text from observer.cache_invalidation
         where listener = $1 and id > $2 order by id limit $3",
    )
    .bind(listener)
    .bind(last)
    .bind(MAX_ROWS + 1)
    .fetch_all(pool)
    .await?;
    let changes: Result<Vec<_>, sqlx::Error> = rows.iter().map(change).collect();
    Ok(Commands {
        last: rows.last().map_or(Ok(last), |row| row.try_get(0))?,
        changes: changes?,
        more: i64::try_from(rows.len()).unwrap_or(i64::MAX) > MAX_ROWS,
    })
}

fn change(row: &PgRow) -> Result<(Change, Progress), sqlx::Error> {
    let snapshot: Snapshot = row
        .try_get::<&str, _>(5)?
        .parse()
        .map_err(|error| sqlx::Error::Decode(Box::new(error)))?;
    let change = match row.try_get(3)? {
        Some(entity) => Change::Row {
            entity,
            key: row.try_get(4)?,
        },
        None => Change::Scope(Scope {
            observer: row.try_get(1)?,
            name: row.try_get(2)?,
        }),
    };
    Ok((change, Progress::after(&snapshot)))
}
