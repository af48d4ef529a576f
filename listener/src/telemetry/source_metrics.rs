//! Metrics of a source that fills the change log from elsewhere. Those of the slot are reported by the process
//! that reads it.

use prometheus::{Gauge, IntCounter, IntCounterVec, IntGauge, Opts};
use server::registry::Registry;

use super::metrics::registered;

/// Metrics of a source.
#[derive(Clone, Debug)]
pub struct SourceMetrics {
    /// Whether this process reads the source: 1 while its session is open.
    pub connected: IntGauge,
    /// Changes appended to the change log.
    pub changes: IntCounter,
    /// Sessions that ended with a failure, by reason.
    pub failures: IntCounterVec,
    /// Messages of applications that are no events although they are marked so, and records that are none.
    pub malformed: IntCounter,
    /// Gaps: changes that were lost with a slot, or with records of a topic.
    pub gaps: IntCounter,
    /// Bytes of the write-ahead log that are not read yet.
    pub unread_bytes: Gauge,
    /// Records of the topics that are not read yet.
    pub unread_records: Gauge,
    /// Age in seconds of the last change that was appended, when it was.
    pub delay: Gauge,
    /// Bytes of the write-ahead log that the server keeps for the slot.
    pub retained_bytes: Gauge,
    /// Bytes that may still be written before the slot is invalidated; -1 without a limit.
    pub safe_bytes: Gauge,
}

impl SourceMetrics {
    /// Registers the metrics.
    pub(super) fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let counter = |name: &str, help: &str| registered(registry, IntCounter::new(name, help)?);
        let gauge = |name: &str, help: &str| registered(registry, Gauge::new(name, help)?);
        let failures = IntCounterVec::new(
            Opts::new(
                "source_failures_total",
                "Sessions of the source that failed, by reason",
            ),
            &["reason"],
        )?;
        let connected = IntGauge::new(
            "source_connected",
            "Whether this process reads the source: 1 while its session is open",
        )?;
        let metrics = Self {
            connected: registered(registry, connected)?,
            changes: counter(
                "source_changes_total",
                "Changes of the source appended to the change log",
            )?,
            failures: registered(registry, failures)?,
            malformed: counter(
                "source_malformed_messages_total",
                "Messages with the prefix of events, and records of topics, that are no events",
            )?,
            gaps: counter(
                "source_gaps_total",
                "Gaps of the source: changes that were lost with its slot, or with records of a topic",
            )?,
            unread_bytes: gauge(
                "source_unread_bytes",
                "Bytes of the write-ahead log that are not read yet",
            )?,
            unread_records: gauge(
                "source_unread_records",
                "Records of the source's topics that are not read yet",
            )?,
            delay: gauge(
                "source_delay_seconds",
                "Time from a change's commit until it was in the change log, of the last one",
            )?,
            retained_bytes: gauge(
                "source_retained_bytes",
                "Bytes of the write-ahead log that the server keeps for the slot",
            )?,
            safe_bytes: gauge(
                "source_safe_bytes",
                "Bytes that may be written before the slot is invalidated; -1 without a limit",
            )?,
        };
        metrics.set_unread();
        Ok(metrics)
    }

    /// Reports that this process does not read the source.
    pub(crate) fn set_unread(&self) {
        self.connected.set(0);
        self.unread_bytes.set(0.0);
        self.unread_records.set(0.0);
        self.retained_bytes.set(0.0);
        self.safe_bytes.set(-1.0);
    }
}
