//! Metrics, health and status of this process.

pub mod health;
pub mod status;

pub mod metrics;
