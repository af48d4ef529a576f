//! The data plane: reads committed changes of a Postgres database, matches them against
//! observers, and delivers their actions.

pub mod actions;
pub mod api;
#[cfg(test)]
#[path = "../tests/support/certs.rs"]
mod certs;
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
#[cfg(test)]
#[path = "../tests/support/kafka.rs"]
mod kafka;
pub mod migrate;
#[cfg(test)]
#[path = "../tests/support/nats.rs"]
mod nats;
pub mod queue;
pub mod rules;
pub mod run;
pub mod shard;
#[cfg(test)]
#[path = "../tests/support/smtp.rs"]
mod smtp;
pub mod source;
pub mod telemetry;
