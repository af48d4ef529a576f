//! The data plane: reads committed changes of a Postgres database, matches them against
//! observers, and delivers their actions.

pub mod admission;
pub mod capture;
pub mod coordination;
pub mod dead_letters;
pub mod delivery;
pub mod egress;
pub mod jobs;
pub mod matching;
pub mod runtime;
pub mod server;
pub mod templating;

pub mod actions;
pub mod checkpoint;
pub mod database;
pub mod demo;
pub mod dispatch;
#[cfg(test)]
mod fuzz;
mod hex;
pub mod lint;
pub mod migrate;
pub mod telemetry;
pub mod tracking;
