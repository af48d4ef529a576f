//! The data plane: reads committed changes of a Postgres database, matches them against
//! observers, and delivers their actions.

pub mod actions;
pub mod api;
pub mod checkpoint;
pub mod cluster;
pub mod database;
pub mod demo;
pub mod dispatch;
mod engine;
pub mod event;
#[cfg(test)]
mod fuzz;
mod hex;
pub mod lint;
pub mod migrate;
pub mod queue;
pub mod rules;
pub mod run;
pub mod shard;
pub mod source;
pub mod telemetry;
pub mod tracking;
