//! Jobs in Postgres.
