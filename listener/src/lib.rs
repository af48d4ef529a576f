//! The data plane: reads committed changes of a Postgres database, matches them against
//! observers, and delivers their actions.

// The command line names this crate as its other users do.
extern crate self as observer_listener;

pub mod actions;
pub mod admission;
pub(crate) mod audit;
pub mod backfill;
pub mod cache;
pub mod capture;
pub mod checkpoint;
pub(crate) mod circuit_breaker;
pub mod cli;
pub mod coordination;
pub mod database;
pub mod dead_letters;
pub mod delivery;
pub mod dispatch;
pub mod egress;
pub(crate) mod enrich;
pub mod history;
pub mod ingest;
pub mod jobs;
pub mod lint;
pub(crate) mod live_tail;
pub mod matching;
pub mod migrate;
pub mod observers;
mod otlp;
mod redis_client;
pub mod runtime;
pub mod server;
mod sync;
pub mod telemetry;
pub mod templating;
pub mod text;
pub mod trace;
pub mod tracking;
