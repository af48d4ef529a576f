//! Metrics of backfills, of the process that works on them.

use prometheus::IntCounter;
use server::registry::Registry;

use super::metrics::registered;

/// Metrics of backfills.
#[derive(Clone, Debug)]
pub struct BackfillMetrics {
    /// Rows that were read.
    pub rows: IntCounter,
    /// Rows that were left out, as they had changed while their page was read.
    pub superseded: IntCounter,
    /// Backfills that failed.
    pub failures: IntCounter,
}

impl BackfillMetrics {
    /// Registers the metrics.
    pub(super) fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let counter = |name: &str, help: &str| registered(registry, IntCounter::new(name, help)?);
        Ok(Self {
            rows: counter(
                "backfill_rows_total",
                "Rows of tables that backfills have read",
            )?,
            superseded: counter(
                "backfill_superseded_rows_total",
                "Rows that backfills of a write-ahead log have left out, as they had changed meanwhile",
            )?,
            failures: counter("backfill_failures_total", "Backfills that failed")?,
        })
    }
}
