//! Logs and metrics.

pub mod attempts;
pub(crate) mod beginning;
pub mod logs;
pub mod metrics;
mod receivers;
mod writer;
