//! The data plane: reads committed changes of a Postgres database, matches them against
//! observers, and delivers their actions.

pub mod actions;
pub mod demo;
pub mod event;
pub mod source;
