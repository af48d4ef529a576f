//! What the listener counts and measures, for Prometheus.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use crds::config::OnFailure;
use crds::pod_status::LeftAlone;
use prometheus::core::Collector;
use prometheus::{
    Encoder, Gauge, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge,
    IntGaugeVec, Opts, TextEncoder,
};
use server::registry::{MetricDescription, Registry};

use crate::delivery::ActionName;
use crate::delivery::attempt::Attempt;
use crate::delivery::outcome::Outcome;
use crate::sync::lock;

/// Bounds of the duration buckets, in seconds.
const DURATIONS: [f64; 12] = [
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0,
];

/// Bounds of the buckets for how late jobs are begun, in seconds.
const LATE: [f64; 10] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 10.0, 60.0, 600.0];

/// What is counted and measured of jobs.
#[derive(Clone, Debug)]
pub struct Jobs {
    /// Jobs added to the queue.
    pub enqueued: IntCounterVec,
    /// Claims of jobs that ended, by outcome: `done`, `retry`, `dead`, `cancelled`.
    pub finished: IntCounterVec,
    /// Results refused, because others had the jobs by then.
    pub refused: IntCounter,
    /// Jobs taken from workers that were not heard of any more.
    pub lost: IntCounter,
    /// Jobs under way in this process.
    pub running: IntGauge,
    /// Seconds from when a job was due until it was claimed.
    pub late: Histogram,
    /// Pending jobs of the listener, by observer and state; told by one process of the fleet.
    pub pending: IntGaugeVec,
    /// The same, by observer and attempts made.
    pub by_attempts: IntGaugeVec,
    /// Age in seconds of the oldest pending job, by observer.
    pub oldest: IntGaugeVec,
}

impl Jobs {
    fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let counters = |name: &str, help: &str, by: &[&str]| {
            let metric = IntCounterVec::new(Opts::new(name, help), by)?;
            registry.register(Box::new(metric.clone()))?;
            Ok::<_, prometheus::Error>(metric)
        };
        let counter = |name: &str, help: &str| {
            let metric = IntCounter::new(name, help)?;
            registry.register(Box::new(metric.clone()))?;
            Ok::<_, prometheus::Error>(metric)
        };
        let gauges = |name: &str, help: &str, by: &[&str]| {
            let metric = IntGaugeVec::new(Opts::new(name, help), by)?;
            registry.register(Box::new(metric.clone()))?;
            Ok::<_, prometheus::Error>(metric)
        };
        let running = IntGauge::new("jobs_running", "Jobs under way in this process")?;
        registry.register(Box::new(running.clone()))?;
        let late = Histogram::with_opts(
            HistogramOpts::new(
                "job_start_seconds",
                "Time from when a job was due until it was claimed",
            )
            .buckets(LATE.to_vec()),
        )?;
        registry.register(Box::new(late.clone()))?;
        Ok(Self {
            enqueued: counters(
                "jobs_enqueued_total",
                "Jobs added to the queue",
                &["observer", "action"],
            )?,
            finished: counters(
                "jobs_finished_total",
                "Claims of jobs that ended, by outcome",
                &["observer", "action", "outcome"],
            )?,
            refused: counter(
                "jobs_refused_total",
                "Results refused because others had the jobs by then",
            )?,
            lost: counter(
                "jobs_lost_total",
                "Jobs taken from workers that were not heard of any more",
            )?,
            running,
            late,
            pending: gauges("jobs", "Pending jobs", &["observer", "state"])?,
            by_attempts: gauges(
                "jobs_by_attempts",
                "Pending jobs by attempts made",
                &["observer", "attempts"],
            )?,
            oldest: gauges(
                "jobs_oldest_seconds",
                "Age of the oldest pending job",
                &["observer"],
            )?,
        })
    }
}

/// Receivers that are told of.
pub struct Told {
    metrics: Metrics,
    collector: Option<Box<dyn Collector>>,
}

impl std::fmt::Debug for Told {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Told")
    }
}

impl Drop for Told {
    fn drop(&mut self) {
        // One that is gone already is not told of either.
        let registry = &self.metrics.registry;
        let _gone = self
            .collector
            .take()
            .map(|known| registry.unregister(known));
        self.metrics.set_circuits(None);
    }
}

/// Knows the circuit breakers of a listener's endpoints.
pub trait OpenCircuits: std::fmt::Debug + Send + Sync {
    /// Those that are not closed.
    fn open_circuits(&self) -> LeftAlone;
}

/// All metrics of one listener.
#[derive(Clone, Debug)]
pub struct Metrics {
    registry: Registry,
    /// Those of the observers of the moment.
    circuits: Arc<Mutex<Option<Arc<dyn OpenCircuits>>>>,
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
    /// Dead letters that are kept, by observer and kind of failure; told by one process of the
    /// fleet.
    pub letters: IntGaugeVec,
    /// Age in seconds of the oldest of them, by observer.
    pub oldest_letter: IntGaugeVec,
    /// Dead letters that were kept for as long as they are to be.
    pub expired_letters: IntCounter,
    /// Actions given up on and not kept, by kind of failure.
    pub dropped: IntCounterVec,
    /// Attempts under way.
    pub in_flight: IntGauge,
    /// Actions read and not over, those under way included.
    pub pending: IntGauge,
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
    /// Failures to reach or use the database, by what was tried: `read`, `save`, `redrive`, `jobs`,
    /// `maintain`.
    pub database_errors: IntCounterVec,
    /// For how long retention has been kept from its work; 0 if it was not the last time.
    pub retention_blocked: IntGauge,
    /// What there is to tell of jobs.
    pub jobs: Jobs,
}

impl Metrics {
    /// Registers everything, with the listener's name on each metric.
    pub fn new(listener: &str) -> Result<Self, prometheus::Error> {
        let labels = [("listener".to_owned(), listener.to_owned())].into();
        let registry = Registry::new_custom(Some("observer".to_owned()), Some(labels))?;
        let counter = |name: &str, help: &str| registered(&registry, IntCounter::new(name, help)?);
        let counters = |name: &str, help: &str, by: &[&str]| {
            registered(&registry, IntCounterVec::new(Opts::new(name, help), by)?)
        };
        let gauges = |name: &str, help: &str, by: &[&str]| {
            registered(&registry, IntGaugeVec::new(Opts::new(name, help), by)?)
        };
        let gauge = |name: &str, help: &str| registered(&registry, IntGauge::new(name, help)?);
        let durations = HistogramVec::new(
            HistogramOpts::new("action_duration_seconds", "Time an attempt took")
                .buckets(DURATIONS.to_vec()),
            &["observer", "action"],
        )?;
        let durations = registered(&registry, durations)?;
        let lag = Gauge::new(
            "lag_seconds",
            "Age of the oldest event that is not over; 0 when nothing waits",
        )?;
        let lag = registered(&registry, lag)?;
        Ok(Self {
            circuits: Arc::default(),
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
            letters: gauges(
                "dead_letters",
                "Dead letters that are kept",
                &["observer", "kind"],
            )?,
            oldest_letter: gauges(
                "dead_letters_oldest_seconds",
                "Age of the oldest dead letter",
                &["observer"],
            )?,
            expired_letters: counter(
                "dead_letters_expired_total",
                "Dead letters dropped after deadLetters.retention",
            )?,
            dropped: counters(
                "dropped_total",
                "Actions given up on and dropped, as their observers want",
                &["observer", "action", "kind"],
            )?,
            in_flight: gauge("in_flight", "Attempts under way")?,
            pending: gauge("pending_actions", "Actions read and not over")?,
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
            retention_blocked: gauge(
                "retention_blocked_seconds",
                "For how long old events could not be removed, as somebody holds a lock on them or the database fails; 0 if they can",
            )?,
            jobs: Jobs::new(&registry)?,
            registry,
        })
    }

    /// Counts an attempt.
    pub fn attempted(&self, (observer, action): &ActionName, outcome: &Outcome, took: Duration) {
        let outcome = match outcome {
            Outcome::Done => "done",
            Outcome::Retry { .. } => "retry",
            Outcome::Refused(_) => "refused",
            Outcome::Held(_) => return,
        };
        let labels = [&**observer, &**action];
        self.actions
            .with_label_values(&[labels[0], labels[1], outcome])
            .inc();
        self.durations
            .with_label_values(&labels)
            .observe(took.as_secs_f64());
    }

    /// Counts an action on an event (its id and entity) that is given up, and says so.
    pub fn given_up(
        &self,
        (event, entity): (&str, &str),
        (observer, action): &ActionName,
        attempts: u32,
        last: &Attempt,
        then: OnFailure,
    ) {
        let labels = [&**observer, &**action, &*last.kind];
        let (counter, said) = match then {
            OnFailure::DeadLetter => (&self.dead_letters, "given up; kept as a dead letter"),
            OnFailure::Drop => (
                &self.dropped,
                "given up and dropped, as the observer's onFailure says",
            ),
        };
        counter.with_label_values(&labels).inc();
        tracing::warn!(
            target: "observer::dead_letter",
            event,
            entity,
            observer = &**observer,
            action = &**action,
            attempts,
            kind = last.kind,
            error = last.error,
            "{said}"
        );
    }

    /// Registers what tells of circuit breakers, for as long as the answer is kept.
    pub fn register_circuits<C>(&self, circuits: C) -> Result<Told, prometheus::Error>
    where
        C: Collector + OpenCircuits + Clone + 'static,
    {
        self.registry.register(Box::new(circuits.clone()))?;
        self.set_circuits(Some(Arc::new(circuits.clone())));
        Ok(Told {
            metrics: self.clone(),
            collector: Some(Box::new(circuits)),
        })
    }

    fn set_circuits(&self, circuits: Option<Arc<dyn OpenCircuits>>) {
        *lock(&self.circuits) = circuits;
    }

    /// The receivers that are left alone now.
    #[must_use]
    pub fn left_alone(&self) -> LeftAlone {
        lock(&self.circuits)
            .as_ref()
            .map_or_else(LeftAlone::default, |circuits| circuits.open_circuits())
    }

    /// Describes all metrics, those without a value too.
    #[must_use]
    pub fn describe(&self) -> Vec<MetricDescription> {
        self.registry.describe()
    }

    /// Everything in the text format of Prometheus.
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
