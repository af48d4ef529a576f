//! Metrics of the configuration that a process runs.

use prometheus::{IntCounter, IntGauge};
use server::registry::Registry;

use super::metrics::registered;

/// Metrics of the configuration.
#[derive(Clone, Debug)]
pub struct ConfigMetrics {
    /// Changes applied without a restart.
    pub reloads: IntCounter,
    /// Rejected observers of the newest configuration, or 1 if nothing of it can run.
    pub rejected: IntGauge,
}

impl ConfigMetrics {
    /// Registers the metrics.
    pub(super) fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let reloads = IntCounter::new(
            "config_reloads_total",
            "Configuration changes applied without a restart",
        )?;
        let rejected = IntGauge::new(
            "config_rejected",
            "Observers of the newest configuration that cannot run, or 1 if nothing of it can",
        )?;
        Ok(Self {
            reloads: registered(registry, reloads)?,
            rejected: registered(registry, rejected)?,
        })
    }
}
