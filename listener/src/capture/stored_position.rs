//! Positions in tables, which have columns of the same names for them.

use std::sync::Arc;

use sqlx::postgres::{PgArguments, PgRow};
use sqlx::query::Query;
use sqlx::{Postgres, Row};

use super::change_log::LogError;
use super::position::{LogBound, Position};

/// The columns that [`read`] reads, and in whose order [`bind`] and [`bind_all`] bind.
pub(crate) const COLUMNS: &str = "base_low_id, base_snapshot::text as base_snapshot, base_high_id,
    window_low_id, window_snapshot::text as window_snapshot, window_high_id, last_id";

/// A query of Postgres.
pub(crate) type PgQuery<'q> = Query<'q, Postgres, PgArguments>;

/// Reads the position of a row with [`COLUMNS`].
pub(crate) fn read(row: &PgRow) -> Result<Position, LogError> {
    let bound = |low_id, snapshot: &str, high_id| -> Result<Arc<LogBound>, LogError> {
        Ok(Arc::new(LogBound {
            low_id,
            snapshot: snapshot.parse()?,
            high_id,
        }))
    };
    let from = bound(
        row.try_get("base_low_id")?,
        row.try_get("base_snapshot")?,
        row.try_get("base_high_id")?,
    )?;
    let to = match row.try_get::<Option<&str>, _>("window_snapshot")? {
        Some(snapshot) => Some(bound(
            row.try_get("window_low_id")?,
            snapshot,
            row.try_get("window_high_id")?,
        )?),
        None => None,
    };
    Ok(Position {
        from,
        to,
        last_id: row.try_get("last_id")?,
    })
}

/// Binds a position: seven values, the snapshots as text.
pub(crate) fn bind<'q>(query: PgQuery<'q>, position: &Position) -> PgQuery<'q> {
    let (from, to) = (&position.from, position.to.as_ref());
    query
        .bind(from.low_id)
        .bind(from.snapshot.to_string())
        .bind(from.high_id)
        .bind(to.map(|to| to.low_id))
        .bind(to.map(|to| to.snapshot.to_string()))
        .bind(to.map(|to| to.high_id))
        .bind(position.last_id)
}

/// Binds many positions: seven arrays, the snapshots as text.
pub(crate) fn bind_all<'q>(query: PgQuery<'q>, positions: &[&Position]) -> PgQuery<'q> {
    fn column<T>(positions: &[&Position], of: impl Fn(&Position) -> T) -> Vec<T> {
        positions.iter().map(|position| of(position)).collect()
    }
    query
        .bind(column(positions, |at| at.from.low_id))
        .bind(column(positions, |at| at.from.snapshot.to_string()))
        .bind(column(positions, |at| at.from.high_id))
        .bind(column(positions, |at| Some(at.to.as_ref()?.low_id)))
        .bind(column(positions, |at| {
            Some(at.to.as_ref()?.snapshot.to_string())
        }))
        .bind(column(positions, |at| Some(at.to.as_ref()?.high_id)))
        .bind(column(positions, |at| at.last_id))
}
