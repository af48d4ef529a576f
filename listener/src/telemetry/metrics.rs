//! Metrics of the listener, for Prometheus.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use chrono::{DateTime, Utc};
use crds::config::OnFailure;
use crds::pod_status::OpenCircuitBreakers;
use prometheus::core::Collector;
use prometheus::{
    Gauge, Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts,
};
use server::exemplars::{RecordedSpan, TracedHistogramVec};
use server::format::Format;
use server::registry::{MetricDescription, Registry};

use super::activity::Activity;
use super::backfill_metrics::BackfillMetrics;
use super::config_metrics::ConfigMetrics;
use super::pool_metrics::PoolMetrics;
use super::process_metrics::ProcessMetrics;
use super::retain::retain;
use super::shard_metrics::ShardMetrics;
use super::source_metrics::SourceMetrics;
use crate::delivery::ActionName;
use crate::delivery::attempt::Attempt;
use crate::delivery::outcome::Outcome;
use crate::sync::lock;

/// Bounds of the duration buckets, in seconds.
pub(super) const DURATIONS: [f64; 12] = [
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0,
];

/// Bounds of the buckets of the time from a change until its delivery, in seconds.
const LATENCIES: [f64; 12] = [
    0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0, 300.0, 3600.0, 86400.0,
];

/// Bounds of the queue delay buckets, in seconds.
const QUEUE_DELAYS: [f64; 10] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 10.0, 60.0, 600.0];

/// Metrics of the job queue.
#[derive(Clone, Debug)]
pub struct JobMetrics {
    /// Jobs added to the queue, by observer and action.
    pub enqueued: IntCounterVec,
    /// Executions of jobs, by outcome: `completed`, `retry`, `discarded`, `cancelled`.
    pub executions: IntCounterVec,
    /// Job results discarded because their claim was no longer valid.
    pub results_stale: IntCounter,
    /// Job claims that expired with their worker's lease.
    pub leases_expired: IntCounter,
    /// Jobs in flight in this process.
    pub in_flight: IntGauge,
    /// Seconds from when a job was due until it was claimed.
    pub queue_delay: Histogram,
    /// Pending jobs of the listener, by observer and state; reported by one process of the fleet.
    pub pending: IntGaugeVec,
    /// Pending jobs, by observer and number of attempts.
    pub by_attempts: IntGaugeVec,
    /// Age in seconds of the oldest pending job, by observer.
    pub oldest_age: IntGaugeVec,
}

impl JobMetrics {
    fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let counters = |name: &str, help: &str, by: &[&str]| {
            registered(registry, IntCounterVec::new(Opts::new(name, help), by)?)
        };
        let counter = |name: &str, help: &str| registered(registry, IntCounter::new(name, help)?);
        let gauges = |name: &str, help: &str, by: &[&str]| {
            registered(registry, IntGaugeVec::new(Opts::new(name, help), by)?)
        };
        let in_flight = IntGauge::new("jobs_in_flight", "Jobs in flight in this process")?;
        let queue_delay = Histogram::with_opts(
            HistogramOpts::new(
                "job_queue_delay_seconds",
                "Time from when a job was due until it was claimed",
            )
            .buckets(QUEUE_DELAYS.to_vec()),
        )?;
        Ok(Self {
            enqueued: counters(
                "jobs_enqueued_total",
                "Jobs added to the queue",
                &["observer", "action"],
            )?,
            executions: counters(
                "job_executions_total",
                "Executions of jobs by outcome",
                &["observer", "action", "outcome"],
            )?,
            results_stale: counter(
                "job_results_stale_total",
                "Job results discarded because their claim was no longer valid",
            )?,
            leases_expired: counter(
                "job_leases_expired_total",
                "Job claims that expired with their worker's lease",
            )?,
            in_flight: registered(registry, in_flight)?,
            queue_delay: registered(registry, queue_delay)?,
            pending: gauges("jobs", "Pending jobs by state", &["observer", "state"])?,
            by_attempts: gauges(
                "jobs_by_attempts",
                "Pending jobs by number of attempts",
                &["observer", "attempts"],
            )?,
            oldest_age: gauges(
                "jobs_oldest_age_seconds",
                "Age of the oldest pending job",
                &["observer"],
            )?,
        })
    }
}

/// Metrics of the history.
#[derive(Clone, Debug)]
pub struct SearchMetrics {
    /// Age in seconds of the oldest event without a document in this process's shards; 0 if there is none.
    pub lag: Gauge,
    /// Documents in memory.
    pub buffered: IntGauge,
    /// Bytes of documents in memory.
    pub buffered_bytes: IntGauge,
    /// Documents by result: `written`, `rejected`.
    pub documents: IntCounterVec,
    /// Reports of deliveries that were dropped because the buffer was full.
    pub reports_dropped: IntCounter,
    /// Failed calls to the search index.
    pub errors: IntCounter,
    /// Gaps in the history of the listener.
    pub gaps: IntGauge,
    /// Unfinished documents that were compared with the checkpoints, jobs and dead letters.
    pub checked: IntCounter,
    /// Documents that were completed by that.
    pub repaired: IntCounter,
}

impl SearchMetrics {
    fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let counter = |name: &str, help: &str| registered(registry, IntCounter::new(name, help)?);
        let gauge = |name: &str, help: &str| registered(registry, IntGauge::new(name, help)?);
        let lag = Gauge::new(
            "search_lag_seconds",
            "Age of the oldest event without a document; 0 if there is none",
        )?;
        let documents = IntCounterVec::new(
            Opts::new(
                "search_documents_total",
                "Documents of the history by result",
            ),
            &["result"],
        )?;
        Ok(Self {
            lag: registered(registry, lag)?,
            buffered: gauge("search_documents_buffered", "Documents in memory")?,
            buffered_bytes: gauge("search_buffered_bytes", "Bytes of documents in memory")?,
            documents: registered(registry, documents)?,
            reports_dropped: counter(
                "search_reports_dropped_total",
                "Reports of deliveries that were dropped because the buffer was full",
            )?,
            errors: counter("search_errors_total", "Failed calls to the search index")?,
            gaps: gauge(
                "search_gaps",
                "Gaps in the history: events that left the change log before they had documents",
            )?,
            checked: counter(
                "search_unfinished_checked_total",
                "Unfinished documents that were compared with checkpoints, jobs and dead letters",
            )?,
            repaired: counter(
                "search_unfinished_repaired_total",
                "Unfinished documents that were completed from checkpoints, jobs and dead letters",
            )?,
        })
    }
}

/// Registration of a collector, which ends when this is dropped.
pub struct CollectorGuard {
    metrics: Metrics,
    collector: Option<Box<dyn Collector>>,
}

impl std::fmt::Debug for CollectorGuard {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("CollectorGuard")
    }
}

impl Drop for CollectorGuard {
    fn drop(&mut self) {
        // Fails only if it is not registered any more.
        let registry = &self.metrics.registry;
        let _unregistered = self
            .collector
            .take()
            .map(|collector| registry.unregister(collector));
        self.metrics.set_circuits(None);
    }
}

/// Source of the state of circuit breakers.
pub trait OpenCircuits: std::fmt::Debug + Send + Sync {
    /// Returns the circuit breakers that are not closed.
    fn open_circuits(&self) -> OpenCircuitBreakers;
}

/// All metrics of one listener.
#[derive(Clone, Debug)]
pub struct Metrics {
    registry: Registry,
    /// Circuit breakers of the current observers.
    circuits: Arc<Mutex<Option<Arc<dyn OpenCircuits>>>>,
    /// Activity of the last hour.
    pub activity: Activity,
    /// Events read from the change log.
    pub events: IntCounter,
    /// Windows of the change log that were read.
    pub windows: IntCounter,
    /// Events that matched an observer, by observer.
    pub matches: IntCounterVec,
    /// Delivery attempts, by outcome: `success`, `retryable`, `permanent`.
    pub delivery_attempts: IntCounterVec,
    /// Duration of delivery attempts in seconds.
    pub delivery_attempt_duration: TracedHistogramVec,
    /// Seconds from the start of an event's transaction until it was delivered.
    pub delivery_latency: TracedHistogramVec,
    /// Dead letters written, by kind of failure.
    pub dead_letters_written: IntCounterVec,
    /// Dead letters stored, by observer and kind of failure; reported by one process of the fleet.
    pub dead_letters: IntGaugeVec,
    /// Age in seconds of the oldest dead letter, by observer.
    pub dead_letters_oldest_age: IntGaugeVec,
    /// Dead letters deleted after the retention period.
    pub dead_letters_expired: IntCounter,
    /// Failed deliveries dropped without a dead letter, by kind of failure.
    pub deliveries_dropped: IntCounterVec,
    /// Delivery attempts in flight.
    pub delivery_attempts_in_flight: IntGauge,
    /// Deliveries that are not finished, in flight included, jobs excluded.
    pub deliveries_pending: IntGauge,
    /// Events committed and not read yet; an upper bound.
    pub backlog: IntGauge,
    /// Age in seconds of the oldest unfinished event; 0 if there is none.
    pub lag: Gauge,
    /// This process as a whole.
    pub process: ProcessMetrics,
    /// Checkpoint commits.
    pub checkpoint_commits: IntCounter,
    /// Shards that this process owns.
    pub shards_owned: IntGauge,
    /// Shards of this process with work that makes no progress.
    pub shards_stalled: IntGauge,
    /// The configuration that is run.
    pub config: ConfigMetrics,
    /// How shards change hands.
    pub shards: ShardMetrics,
    /// Failed database operations, by operation: `read_change_log`, `commit_checkpoint`,
    /// `read_redrives`, `begin_session`, `use_queue`, `maintain_dead_letters`, `apply_retention`.
    pub database_errors: IntCounterVec,
    /// Connections to the listener's database.
    pub pools: PoolMetrics,
    /// Seconds for which retention of the change log has been blocked; 0 if its last run succeeded.
    pub retention_blocked: IntGauge,
    /// Metrics of the job queue.
    pub jobs: JobMetrics,
    /// Metrics of the history.
    pub search: SearchMetrics,
    /// Metrics of a source that fills the change log.
    pub source: SourceMetrics,
    /// Backfills.
    pub backfill: BackfillMetrics,
}

/// Creates the registry of a listener's process.
fn registry_of(listener: &str) -> Result<Registry, prometheus::Error> {
    let labels = [("listener".to_owned(), listener.to_owned())].into();
    let registry = Registry::new_custom(Some("observer".to_owned()), Some(labels))?;
    registry.register_process()?;
    Ok(registry)
}

impl Metrics {
    /// Registers the metrics, each with the listener's name as a label.
    pub fn new(listener: &str) -> Result<Self, prometheus::Error> {
        let registry = registry_of(listener)?;
        let counter = |name: &str, help: &str| registered(&registry, IntCounter::new(name, help)?);
        let counters = |name: &str, help: &str, by: &[&str]| {
            registered(&registry, IntCounterVec::new(Opts::new(name, help), by)?)
        };
        let gauges = |name: &str, help: &str, by: &[&str]| {
            registered(&registry, IntGaugeVec::new(Opts::new(name, help), by)?)
        };
        let gauge = |name: &str, help: &str| registered(&registry, IntGauge::new(name, help)?);
        let lag = Gauge::new(
            "lag_seconds",
            "Age of the oldest unfinished event; 0 if there is none",
        )?;
        let histograms = |name: &str, help: &str, bounds: &[f64]| {
            let opts = HistogramOpts::new(name, help).buckets(bounds.to_vec());
            let traced = TracedHistogramVec::new(opts, &["observer", "action"])?;
            registry.register_traced(traced.clone())?;
            Ok::<_, prometheus::Error>(traced)
        };
        Ok(Self {
            circuits: Arc::default(),
            activity: Activity::default(),
            events: counter("events_total", "Events read from the change log")?,
            windows: counter("windows_total", "Windows of the change log that were read")?,
            matches: counters(
                "matches_total",
                "Events that matched an observer",
                &["observer"],
            )?,
            delivery_attempts: counters(
                "delivery_attempts_total",
                "Delivery attempts by outcome",
                &["observer", "action", "outcome"],
            )?,
            delivery_attempt_duration: histograms(
                "delivery_attempt_duration_seconds",
                "Duration of delivery attempts",
                &DURATIONS,
            )?,
            delivery_latency: histograms(
                "delivery_latency_seconds",
                "Time from the start of an event's transaction until it was delivered, without replays",
                &LATENCIES,
            )?,
            dead_letters_written: counters(
                "dead_letters_written_total",
                "Dead letters written",
                &["observer", "action", "kind"],
            )?,
            dead_letters: gauges("dead_letters", "Dead letters stored", &["observer", "kind"])?,
            dead_letters_oldest_age: gauges(
                "dead_letters_oldest_age_seconds",
                "Age of the oldest dead letter",
                &["observer"],
            )?,
            dead_letters_expired: counter(
                "dead_letters_expired_total",
                "Dead letters deleted after deadLetters.retention",
            )?,
            deliveries_dropped: counters(
                "deliveries_dropped_total",
                "Failed deliveries dropped without a dead letter, as onFailure says",
                &["observer", "action", "kind"],
            )?,
            delivery_attempts_in_flight: gauge(
                "delivery_attempts_in_flight",
                "Delivery attempts in flight",
            )?,
            deliveries_pending: gauge(
                "deliveries_pending",
                "Deliveries that are not finished yet, without jobs",
            )?,
            backlog: gauge(
                "backlog_events",
                "Events committed and not read yet, an upper bound",
            )?,
            lag: registered(&registry, lag)?,
            process: ProcessMetrics::new(&registry)?,
            checkpoint_commits: counter("checkpoint_commits_total", "Checkpoint commits")?,
            shards_owned: gauge("shards_owned", "Shards that this process owns")?,
            shards_stalled: gauge("shards_stalled", "Shards with work that makes no progress")?,
            config: ConfigMetrics::new(&registry)?,
            shards: ShardMetrics::new(&registry)?,
            database_errors: counters(
                "database_errors_total",
                "Failed database operations",
                &["operation"],
            )?,
            pools: registered(&registry, PoolMetrics::new()?)?,
            retention_blocked: gauge(
                "retention_blocked_seconds",
                "Time for which old events could not be deleted because of a lock or database errors; 0 if they can",
            )?,
            jobs: JobMetrics::new(&registry)?,
            source: SourceMetrics::new(&registry)?,
            backfill: BackfillMetrics::new(&registry)?,
            search: SearchMetrics::new(&registry)?,
            registry,
        })
    }

    /// Records a delivery attempt, and its span if that is recorded.
    pub fn record_attempt(
        &self,
        ActionName { observer, action }: &ActionName,
        outcome: &Outcome,
        took: Duration,
        span: Option<RecordedSpan>,
    ) {
        let outcome = match outcome {
            Outcome::Delivered => "success",
            Outcome::Retry { .. } => "retryable",
            Outcome::Rejected(_) => "permanent",
            Outcome::Skipped => "skipped",
            Outcome::Cached => "cached",
            Outcome::Deferred(_) => return,
        };
        self.activity.count(Utc::now(), |minute| match outcome {
            "success" | "cached" => minute.delivered += 1,
            "retryable" | "permanent" => minute.failed += 1,
            _ => {}
        });
        let labels = [&**observer, &**action];
        self.delivery_attempts
            .with_label_values(&[labels[0], labels[1], outcome])
            .inc();
        let took = took.as_secs_f64();
        self.delivery_attempt_duration.observe(&labels, took, span);
    }

    /// Records when an event that occurred at a time was delivered, and the span of the attempt if that is
    /// recorded.
    pub fn record_delivered(
        &self,
        ActionName { observer, action }: &ActionName,
        occurred_at: DateTime<Utc>,
        now: DateTime<Utc>,
        span: Option<RecordedSpan>,
    ) {
        let labels = [&**observer, &**action];
        // The clocks of two machines may differ.
        let latency = (now - occurred_at).as_seconds_f64().max(0.0);
        self.delivery_latency.observe(&labels, latency, span);
    }

    /// Removes the series of observers and actions for which `keep` says no. What is reported of rows of the
    /// database, such as dead letters, goes by these.
    pub fn retain(&self, keep: &dyn Fn(&str, Option<&str>) -> bool) {
        for counters in [
            &self.matches,
            &self.delivery_attempts,
            &self.dead_letters_written,
            &self.deliveries_dropped,
            &self.jobs.enqueued,
            &self.jobs.executions,
        ] {
            retain(counters, keep);
        }
        retain(&self.delivery_attempt_duration, keep);
        retain(&self.delivery_latency, keep);
    }

    /// Counts events that were read from the change log.
    pub fn record_events(&self, count: u64) {
        self.events.inc_by(count);
        if count > 0 {
            self.activity
                .count(Utc::now(), |minute| minute.events += count);
        }
    }

    /// Records the age of the oldest unfinished event.
    pub fn record_lag(&self, lag: Duration, now: DateTime<Utc>) {
        self.lag.set(lag.as_secs_f64());
        self.activity.note_lag(now, lag.as_secs());
    }

    /// Counts and logs a delivery of an event (its id and entity) that has failed for good.
    pub fn record_failed_delivery(
        &self,
        (event, entity): (&str, &str),
        ActionName { observer, action }: &ActionName,
        attempts: u32,
        last: &Attempt,
        then: OnFailure,
    ) {
        let labels = [&**observer, &**action, &*last.kind];
        let (counter, message) = match then {
            OnFailure::DeadLetter => (
                &self.dead_letters_written,
                "delivery given up; dead letter written",
            ),
            OnFailure::Drop => (
                &self.deliveries_dropped,
                "delivery given up and dropped, as the observer's onFailure says",
            ),
        };
        counter.with_label_values(&labels).inc();
        if matches!(then, OnFailure::DeadLetter) {
            self.activity
                .count(Utc::now(), |minute| minute.dead_letters += 1);
        }
        tracing::warn!(
            target: "observer::dead_letter",
            event,
            entity,
            observer = &**observer,
            action = &**action,
            attempts,
            kind = last.kind,
            error = last.error,
            "{message}"
        );
    }

    /// Registers the collector of circuit breakers, until the guard is dropped.
    pub fn register_circuits<C>(&self, circuits: C) -> Result<CollectorGuard, prometheus::Error>
    where
        C: Collector + OpenCircuits + Clone + 'static,
    {
        self.registry.register(Box::new(circuits.clone()))?;
        self.set_circuits(Some(Arc::new(circuits.clone())));
        Ok(CollectorGuard {
            metrics: self.clone(),
            collector: Some(Box::new(circuits)),
        })
    }

    fn set_circuits(&self, circuits: Option<Arc<dyn OpenCircuits>>) {
        *lock(&self.circuits) = circuits;
    }

    /// Returns the endpoints whose circuit breaker is not closed.
    #[must_use]
    pub fn open_circuits(&self) -> OpenCircuitBreakers {
        lock(&self.circuits)
            .as_ref()
            .map_or_else(OpenCircuitBreakers::default, |circuits| {
                circuits.open_circuits()
            })
    }

    /// Describes all metrics, including those without a value.
    #[must_use]
    pub fn describe(&self) -> Vec<MetricDescription> {
        self.registry.describe()
    }

    /// Returns the registry of the metrics.
    pub(crate) const fn registry(&self) -> &Registry {
        &self.registry
    }

    /// Renders all metrics in a format.
    pub fn render(&self, format: Format) -> Result<Vec<u8>, prometheus::Error> {
        self.registry.render(format)
    }
}

pub(super) fn registered<C: Collector + Clone + 'static>(
    registry: &Registry,
    metric: C,
) -> Result<C, prometheus::Error> {
    registry.register(Box::new(metric.clone()))?;
    Ok(metric)
}

#[cfg(test)]
mod tests;
