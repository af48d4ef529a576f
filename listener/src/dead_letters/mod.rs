//! Dead letters: failed deliveries that are kept until somebody redrives or drops them.

pub mod admin;
pub mod replay;
pub(crate) mod retention;
pub mod store;

/// Statement with its values bound.
type BoundQuery<'q> = sqlx::query::Query<'q, sqlx::Postgres, sqlx::postgres::PgArguments>;
