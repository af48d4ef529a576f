//! Metrics, health and status of this process.

pub mod activity;
pub mod backfill_metrics;
pub mod config_metrics;
pub mod health;
pub mod status;

pub(crate) mod lookup_metrics;
pub mod metrics;
pub mod pool_metrics;
pub mod process_metrics;
pub(crate) mod retain;
pub mod shard_metrics;
pub mod source_metrics;
