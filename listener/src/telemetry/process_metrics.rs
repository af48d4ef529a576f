//! Metrics of this process as a whole.

use prometheus::{Gauge, IntCounter, IntGauge};
use server::registry::Registry;

use super::metrics::registered;

/// Metrics of this process as a whole.
#[derive(Clone, Debug)]
pub struct ProcessMetrics {
    /// Whether the process is ready, as `/readyz` says; set whenever metrics are scraped.
    pub ready: IntGauge,
    /// Seconds by which the clock of this process is ahead of that of the database's server.
    pub clock_offset: Gauge,
    /// Spans that were not sent to the collector of traces.
    pub spans_dropped: IntCounter,
    /// Log lines that were not sent to the collector of logs.
    pub logs_dropped: IntCounter,
}

impl ProcessMetrics {
    /// Registers the metrics.
    pub(super) fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let ready = IntGauge::new(
            "ready",
            "Whether the process is ready, as /readyz says: 1 if it is, 0 if not",
        )?;
        let clock_offset = Gauge::new(
            "clock_offset_seconds",
            "Clock of this process minus that of the database's server, beyond what a round trip hides",
        )?;
        let spans_dropped = IntCounter::new(
            "telemetry_spans_dropped_total",
            "Spans that were dropped: the collector did not take them, or too many waited for it",
        )?;
        let logs_dropped = IntCounter::new(
            "telemetry_logs_dropped_total",
            "Log lines that were not sent over OTLP: the collector did not take them, or too many waited for it",
        )?;
        Ok(Self {
            ready: registered(registry, ready)?,
            clock_offset: registered(registry, clock_offset)?,
            spans_dropped: registered(registry, spans_dropped)?,
            logs_dropped: registered(registry, logs_dropped)?,
        })
    }
}
