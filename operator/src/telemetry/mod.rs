//! Metrics.

pub mod metrics;
