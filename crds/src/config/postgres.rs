//! Statements in Postgres, after validation.

use super::{Redacted, TlsConfig};

/// A statement in a Postgres database.
#[derive(Clone, Debug)]
pub struct PostgresConfig {
    /// The database; the listener's own where absent.
    pub url: Option<Redacted>,
    /// What the connection needs beyond what the system knows.
    pub tls: Option<TlsConfig>,
    /// The statement.
    pub statement: String,
    /// Templates of its parameters.
    pub parameters: Vec<String>,
}

/// The database of a listener, and the login by which actions may run statements in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnDatabase {
    /// Its URL with the login of statements.
    pub url: Redacted,
    /// Its URL with the listener's own login.
    pub listener_url: Redacted,
    /// The listener, as it is known there.
    pub listener: String,
}
