//! What the parts do together, against a real Postgres: one test binary, one server.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod capture;
mod migrate;
mod server;
mod support;
