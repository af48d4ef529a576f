//! What lets the program run with nothing installed: a private Postgres.

pub mod binaries;
pub mod server;
