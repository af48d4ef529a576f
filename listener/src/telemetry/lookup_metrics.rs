//! Metrics of lookups. They outlive reloads of the observers.

use std::time::Duration;

use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{HistogramOpts, HistogramVec, IntCounterVec, Opts};

use super::metrics::DURATIONS;
use crate::delivery::outcome::Outcome;

/// Counts and durations of lookups.
#[derive(Clone, Debug)]
pub(crate) struct LookupMetrics {
    lookups: IntCounterVec,
    duration: HistogramVec,
    cache: IntCounterVec,
}

impl LookupMetrics {
    pub(crate) fn new() -> Result<Self, prometheus::Error> {
        let lookups = Opts::new(
            "lookups_total",
            "Lookups before deliveries, by outcome: success, retryable, permanent, deferred",
        );
        let duration = HistogramOpts::new(
            "lookup_duration_seconds",
            "Duration of lookups, with the wait for their limits",
        );
        let cache = Opts::new(
            "lookup_cache_requests_total",
            "Lookups with a cache, by result: hit, miss, joined (an equal one was under way), stale",
        );
        Ok(Self {
            cache: IntCounterVec::new(cache, &["observer", "lookup", "result"])?,
            lookups: IntCounterVec::new(lookups, &["observer", "lookup", "outcome"])?,
            duration: HistogramVec::new(
                duration.buckets(DURATIONS.to_vec()),
                &["observer", "lookup"],
            )?,
        })
    }

    /// Records one lookup.
    pub(crate) fn record(&self, observer: &str, lookup: &str, outcome: &Outcome, took: Duration) {
        let outcome = match outcome {
            Outcome::Delivered | Outcome::Skipped => "success",
            Outcome::Retry { .. } => "retryable",
            Outcome::Rejected(_) => "permanent",
            Outcome::Deferred(_) => "deferred",
        };
        let lookups = &self.lookups;
        lookups
            .with_label_values(&[observer, lookup, outcome])
            .inc();
        let duration = self.duration.with_label_values(&[observer, lookup]);
        duration.observe(took.as_secs_f64());
    }
}

impl LookupMetrics {
    /// Records how the cache was used.
    pub(crate) fn record_cache(&self, observer: &str, lookup: &str, result: &str) {
        let labels = [observer, lookup, result];
        self.cache.with_label_values(&labels).inc();
    }
}

impl Collector for LookupMetrics {
    fn desc(&self) -> Vec<&Desc> {
        let others = self.duration.desc().into_iter().chain(self.cache.desc());
        self.lookups.desc().into_iter().chain(others).collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let duration = self.duration.collect().into_iter();
        let others = duration.chain(self.cache.collect());
        self.lookups.collect().into_iter().chain(others).collect()
    }
}
