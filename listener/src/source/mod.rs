//! Reads committed changes out of the log, each exactly once and in order within a key.

pub mod pace;
pub mod position;
pub mod snapshot;
