//! What the listener counts and measures, for Prometheus.

use prometheus::{
    Encoder, Gauge, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, Opts,
    Registry, TextEncoder,
};

/// Bounds of the duration buckets, in seconds.
const DURATIONS: [f64; 12] = [
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0,
];

/// All metrics of one listener.
#[derive(Clone, Debug)]
pub struct Metrics {
    registry: Registry,
    /// Events read from the log.
    pub events: IntCounter,
    /// Matches of an observer and an event.
    pub matches: IntCounterVec,
    /// Attempts of actions, by outcome: `done`, `retry`, `refused`.
    pub actions: IntCounterVec,
    /// Seconds an attempt took.
    pub durations: HistogramVec,
    /// Dead letters written, by kind of failure.
    pub dead_letters: IntCounterVec,
    /// Attempts under way.
    pub in_flight: IntGauge,
    /// Actions read and not over, those under way included.
    pub pending: IntGauge,
    /// Actions that wait for their next attempt.
    pub waiting: IntGauge,
    /// Events committed and not read; an upper bound.
    pub backlog: IntGauge,
    /// Age in seconds of the oldest event that is not over; 0 when nothing waits.
    pub lag: Gauge,
    /// Checkpoint writes.
    pub saves: IntCounter,
    /// Shards that this process works on.
    pub shards: IntGauge,
    /// Of those, and of those that should be its own, the shards whose work does not get on.
    pub stalled: IntGauge,
    /// Times that a save was refused because another process had claimed the shard.
    pub fenced: IntCounter,
    /// Requests about Leases, by verb.
    pub lease_requests: IntCounterVec,
    /// Times that another bundle came into force without a new start.
    pub reloads: IntCounter,
    /// Failures to reach or use the database, by what was tried: `read`, `save`, `redrive`, `maintain`.
    pub database_errors: IntCounterVec,
}

impl Metrics {
    /// Registers everything, with the listener's name on each metric.
    pub fn new(listener: &str) -> Result<Self, prometheus::Error> {
        let labels = [("listener".to_owned(), listener.to_owned())].into();
        let registry = Registry::new_custom(Some("observer".to_owned()), Some(labels))?;
        let counter = |name: &str, help: &str| {
            let metric = IntCounter::new(name, help)?;
            registry.register(Box::new(metric.clone()))?;
            Ok::<_, prometheus::Error>(metric)
        };
        let counters = |name: &str, help: &str, by: &[&str]| {
            let metric = IntCounterVec::new(Opts::new(name, help), by)?;
            registry.register(Box::new(metric.clone()))?;
            Ok::<_, prometheus::Error>(metric)
        };
        let gauge = |name: &str, help: &str| {
            let metric = IntGauge::new(name, help)?;
            registry.register(Box::new(metric.clone()))?;
            Ok::<_, prometheus::Error>(metric)
        };
        let durations = HistogramVec::new(
            HistogramOpts::new("action_duration_seconds", "Time an attempt took")
                .buckets(DURATIONS.to_vec()),
            &["observer", "action"],
        )?;
        registry.register(Box::new(durations.clone()))?;
        let lag = Gauge::new(
            "lag_seconds",
            "Age of the oldest event that is not over; 0 when nothing waits",
        )?;
        registry.register(Box::new(lag.clone()))?;
        Ok(Self {
            events: counter("events_total", "Events read from the log")?,
            matches: counters(
                "matches_total",
                "Matches of an observer and an event",
                &["observer"],
            )?,
            actions: counters(
                "actions_total",
                "Attempts of actions by outcome",
                &["observer", "action", "outcome"],
            )?,
            durations,
            dead_letters: counters(
                "dead_letters_total",
                "Actions given up on",
                &["observer", "action", "kind"],
            )?,
            in_flight: gauge("in_flight", "Attempts under way")?,
            pending: gauge("pending_actions", "Actions read and not over")?,
            waiting: gauge(
                "waiting_actions",
                "Actions that wait for their next attempt",
            )?,
            backlog: gauge(
                "backlog_events",
                "Events committed and not read, an upper bound",
            )?,
            lag,
            saves: counter("checkpoint_saves_total", "Checkpoint writes")?,
            shards: gauge("shards_owned", "Shards that this process works on")?,
            stalled: gauge(
                "stalled_shards",
                "Shards in which work waits and does not get on",
            )?,
            fenced: counter(
                "fenced_total",
                "Saves refused because another process had claimed the shard",
            )?,
            lease_requests: counters("lease_requests_total", "Requests about Leases", &["verb"])?,
            reloads: counter(
                "reloads_total",
                "Times that another bundle came into force without a new start",
            )?,
            database_errors: counters(
                "database_errors_total",
                "Failures to use the database",
                &["doing"],
            )?,
            registry,
        })
    }

    /// Everything in the text format of Prometheus.
    pub fn render(&self) -> Result<Vec<u8>, prometheus::Error> {
        let mut text = Vec::new();
        TextEncoder::new().encode(&self.registry.gather(), &mut text)?;
        Ok(text)
    }
}
