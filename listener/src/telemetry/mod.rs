//! Logs and metrics.

pub mod health;
pub mod status;

pub mod logs;
pub mod metrics;
mod writer;
