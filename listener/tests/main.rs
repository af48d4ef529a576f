//! What the parts do together, against a real Postgres: one test binary, one server.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test may panic")]

mod capture;
mod chaos;
mod demo;
mod figures;
mod migrate;
mod server;
mod support;
