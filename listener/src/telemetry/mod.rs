//! Logs, metrics, readiness and status.

pub mod health;
pub mod logs;
pub mod metrics;
pub mod status;
mod writer;
