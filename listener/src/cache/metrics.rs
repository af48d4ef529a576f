//! Metrics of the cache. They outlive reloads of the observers.

use std::collections::BTreeMap;
use std::time::Duration;

use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, Opts};

use crate::telemetry::retain::retain;

/// Upper bounds of durations, in seconds: from a result in memory to a request that is timed out.
const DURATIONS: [f64; 16] = [
    0.000_002, 0.000_005, 0.000_01, 0.000_02, 0.000_05, 0.000_1, 0.000_2, 0.000_5, 0.001, 0.002,
    0.005, 0.01, 0.025, 0.05, 0.5, 5.0,
];

/// How a request was served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Served {
    /// By a result in this process.
    Memory,
    /// By a result in Redis.
    Redis,
    /// By an equal request that was under way in this process.
    Joined,
    /// By the lookup or action itself.
    Miss,
    /// By the lookup or action itself, before the result would have expired.
    Refreshed,
    /// By a result from before, as the lookup failed.
    Stale,
    /// By the lookup or action itself, as it was not known whether a result holds.
    Bypassed,
}

impl Served {
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Redis => "redis",
            Self::Joined => "joined",
            Self::Miss => "miss",
            Self::Refreshed => "refreshed",
            Self::Stale => "stale",
            Self::Bypassed => "bypassed",
        }
    }
}

/// Counts and durations of the cache.
#[derive(Clone, Debug)]
pub(crate) struct CacheMetrics {
    requests: IntCounterVec,
    duration: HistogramVec,
    pub(super) evictions: IntCounter,
    invalidations: IntCounterVec,
    redis_failures: IntCounterVec,
    pub(super) entries: IntGauge,
    pub(super) bytes: IntGauge,
}

impl CacheMetrics {
    pub(crate) fn new() -> Result<Self, prometheus::Error> {
        let requests = Opts::new(
            "cache_requests_total",
            "Requests of lookups and actions with a cache, by how they were served: memory, redis, joined (an equal \
             one was under way), miss, refreshed (before it expired), stale (the lookup failed), bypassed (it was not \
             known whether a result holds)",
        );
        let duration = HistogramOpts::new(
            "cache_request_duration_seconds",
            "Duration of requests of lookups and actions with a cache, by how they were served, as in \
             cache_requests_total",
        );
        let invalidations = Opts::new(
            "cache_invalidations_total",
            "Changes seen that end results, by kind: row, command",
        );
        let redis_failures = Opts::new(
            "cache_redis_failures_total",
            "Calls of the cache to Redis without a usable answer, by cause: timeout, connection, refused, rubbish, \
             left_alone",
        );
        Ok(Self {
            requests: IntCounterVec::new(requests, &["observer", "name", "served"])?,
            duration: HistogramVec::new(duration.buckets(DURATIONS.to_vec()), &["served"])?,
            evictions: IntCounter::new(
                "cache_evictions_total",
                "Results dropped from this process for lack of room",
            )?,
            invalidations: IntCounterVec::new(invalidations, &["kind"])?,
            redis_failures: IntCounterVec::new(redis_failures, &["cause"])?,
            entries: IntGauge::new("cache_entries", "Results of the cache in this process")?,
            bytes: IntGauge::new("cache_bytes", "Bytes of the cache in this process")?,
        })
    }

    /// Returns the requests of all observers, by how they were served.
    pub(super) fn served(&self) -> BTreeMap<String, u64> {
        let mut served = BTreeMap::new();
        for family in self.requests.collect() {
            for metric in family.get_metric() {
                let labels = metric.get_label().iter();
                let mut how = labels.filter(|label| label.name() == "served");
                let Some(how) = how.next() else { continue };
                // Counts are whole numbers.
                #[expect(
                    clippy::cast_possible_truncation,
                    clippy::cast_sign_loss,
                    reason = "a count"
                )]
                let count = metric.get_counter().get_value() as u64;
                *served.entry(how.value().to_owned()).or_default() += count;
            }
        }
        served
    }

    /// Records a request of an observer's lookup or action.
    pub(crate) fn record(&self, observer: &str, name: &str, served: Served, took: Duration) {
        let labels = [observer, name, served.as_str()];
        self.requests.with_label_values(&labels).inc();
        let duration = self.duration.with_label_values(&labels[2..]);
        duration.observe(took.as_secs_f64());
    }

    pub(super) fn record_invalidations(&self, kind: &str, count: usize) {
        let counter = self.invalidations.with_label_values(&[kind]);
        counter.inc_by(count as u64);
    }

    pub(super) fn record_failure(&self, cause: &str) {
        self.redis_failures.with_label_values(&[cause]).inc();
    }

    #[cfg(test)]
    pub(super) fn redis_failures(&self, cause: &str) -> u64 {
        self.redis_failures.with_label_values(&[cause]).get()
    }

    /// Removes the series of observers for which `keep` says no.
    pub(crate) fn retain(&self, keep: &dyn Fn(&str, Option<&str>) -> bool) {
        retain(&self.requests, keep);
    }

    fn all(&self) -> [&dyn Collector; 7] {
        [
            &self.requests,
            &self.duration,
            &self.evictions,
            &self.invalidations,
            &self.redis_failures,
            &self.entries,
            &self.bytes,
        ]
    }
}

impl Collector for CacheMetrics {
    fn desc(&self) -> Vec<&Desc> {
        self.all().into_iter().flat_map(Collector::desc).collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        self.all()
            .into_iter()
            .flat_map(Collector::collect)
            .collect()
    }
}
