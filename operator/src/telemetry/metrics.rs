//! Metrics of the operator, for Prometheus.

use prometheus::core::Collector;
use prometheus::{
    Encoder, HistogramOpts, HistogramVec, IntCounterVec, IntGauge, Opts, TextEncoder,
};
use server::registry::{MetricDescription, Registry};

/// Bounds of the duration buckets, in seconds.
const DURATIONS: [f64; 10] = [0.0025, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0];

/// All metrics of the operator.
#[derive(Clone, Debug)]
pub struct Metrics {
    registry: Registry,
    /// Reconciles by kind and outcome: `settled`, `again`, `failed`.
    pub reconciles: IntCounterVec,
    /// Seconds a reconcile took, by kind.
    pub durations: HistogramVec,
    /// Requests to the API server, by method.
    pub requests: IntCounterVec,
    /// Objects that were written, by kind.
    pub writes: IntCounterVec,
    /// Listeners that are known.
    pub listeners: IntGauge,
    /// Observers that are known.
    pub observers: IntGauge,
    /// Requests in the work queue, due or not.
    pub queued: IntGauge,
    /// Whether this process is the leader.
    pub leader: IntGauge,
}

impl Metrics {
    /// Registers the metrics.
    pub fn new() -> Result<Self, prometheus::Error> {
        let registry = Registry::new_custom(Some("observer_operator".to_owned()), None)?;
        let counters = |name: &str, help: &str, by: &[&str]| {
            registered(&registry, IntCounterVec::new(Opts::new(name, help), by)?)
        };
        let gauge = |name: &str, help: &str| registered(&registry, IntGauge::new(name, help)?);
        let durations = HistogramVec::new(
            HistogramOpts::new("reconcile_duration_seconds", "Time a reconcile took")
                .buckets(DURATIONS.to_vec()),
            &["kind"],
        )?;
        Ok(Self {
            reconciles: counters(
                "reconciles_total",
                "Reconciles by kind and outcome",
                &["kind", "outcome"],
            )?,
            durations: registered(&registry, durations)?,
            requests: counters(
                "api_requests_total",
                "Requests to the API server",
                &["method"],
            )?,
            writes: counters("writes_total", "Objects written, by kind", &["kind"])?,
            listeners: gauge("listeners", "Listeners known")?,
            observers: gauge("observers", "Observers known")?,
            queued: gauge("queued", "Work that waits")?,
            leader: gauge("leader", "1 where this process works, 0 where it stands by")?,
            registry,
        })
    }

    /// Describes all metrics, those without a value too.
    #[must_use]
    pub fn describe(&self) -> Vec<MetricDescription> {
        self.registry.describe()
    }

    /// Renders all metrics in the text format of Prometheus.
    pub fn render(&self) -> Result<Vec<u8>, prometheus::Error> {
        let mut text = Vec::new();
        TextEncoder::new().encode(&self.registry.gather(), &mut text)?;
        Ok(text)
    }
}

fn registered<C: Collector + Clone + 'static>(
    registry: &Registry,
    metric: C,
) -> Result<C, prometheus::Error> {
    registry.register(Box::new(metric.clone()))?;
    Ok(metric)
}
