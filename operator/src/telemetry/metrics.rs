//! Metrics of the operator, for Prometheus.

use prometheus::core::Collector;
use prometheus::{HistogramOpts, HistogramVec, IntCounterVec, IntGauge, Opts};
use server::format::Format;
use server::registry::{MetricDescription, Registry};

/// Bounds of the duration buckets, in seconds.
const DURATIONS: [f64; 10] = [0.0025, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0];

/// All metrics of the operator.
#[derive(Clone, Debug)]
pub struct Metrics {
    registry: Registry,
    /// Reconciles by kind and outcome: `success`, `requeue`, `error`.
    pub reconciles: IntCounterVec,
    /// Duration of reconciles in seconds, by kind.
    pub reconcile_duration: HistogramVec,
    /// Requests to the API server, by method.
    pub api_requests: IntCounterVec,
    /// Objects written, by kind.
    pub object_writes: IntCounterVec,
    /// Listeners in the cache.
    pub listeners: IntGauge,
    /// Observers in the cache.
    pub observers: IntGauge,
    /// Requests in the work queue, due or not.
    pub workqueue_depth: IntGauge,
    /// Whether this process is the leader.
    pub leader: IntGauge,
}

impl Metrics {
    /// Registers the metrics.
    pub fn new() -> Result<Self, prometheus::Error> {
        let registry = Registry::new_custom(Some("observer_operator".to_owned()), None)?;
        registry.register_process()?;
        let counters = |name: &str, help: &str, by: &[&str]| {
            registered(&registry, IntCounterVec::new(Opts::new(name, help), by)?)
        };
        let gauge = |name: &str, help: &str| registered(&registry, IntGauge::new(name, help)?);
        let reconcile_duration = HistogramVec::new(
            HistogramOpts::new("reconcile_duration_seconds", "Duration of reconciles")
                .buckets(DURATIONS.to_vec()),
            &["kind"],
        )?;
        Ok(Self {
            reconciles: counters(
                "reconciles_total",
                "Reconciles by kind and outcome",
                &["kind", "outcome"],
            )?,
            reconcile_duration: registered(&registry, reconcile_duration)?,
            api_requests: counters(
                "api_requests_total",
                "Requests to the API server",
                &["method"],
            )?,
            object_writes: counters("object_writes_total", "Objects written by kind", &["kind"])?,
            listeners: gauge("listeners", "Listeners in the cache")?,
            observers: gauge("observers", "Observers in the cache")?,
            workqueue_depth: gauge(
                "workqueue_depth",
                "Reconcile requests in the work queue, due or not",
            )?,
            leader: gauge(
                "leader",
                "Whether this process is the leader: 1 if it is, 0 on standby",
            )?,
            registry,
        })
    }

    /// Describes all metrics, those without a value too.
    #[must_use]
    pub fn describe(&self) -> Vec<MetricDescription> {
        self.registry.describe()
    }

    /// Renders all metrics in a format.
    pub fn render(&self, format: Format) -> Result<Vec<u8>, prometheus::Error> {
        self.registry.render(format)
    }
}

fn registered<C: Collector + Clone + 'static>(
    registry: &Registry,
    metric: C,
) -> Result<C, prometheus::Error> {
    registry.register(Box::new(metric.clone()))?;
    Ok(metric)
}
