//! Metrics of lookups. They outlive reloads of the observers.

use std::time::Duration;

use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{HistogramOpts, HistogramVec, IntCounterVec, Opts};

use super::metrics::DURATIONS;
use super::retain::retain;
use crate::delivery::outcome::Outcome;

/// Counts and durations of lookups.
#[derive(Clone, Debug)]
pub(crate) struct LookupMetrics {
    lookups: IntCounterVec,
    duration: HistogramVec,
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
        Ok(Self {
            lookups: IntCounterVec::new(lookups, &["observer", "lookup", "outcome"])?,
            duration: HistogramVec::new(
                duration.buckets(DURATIONS.to_vec()),
                &["observer", "lookup"],
            )?,
        })
    }

    /// Removes the series of observers for which `keep` says no.
    pub(crate) fn retain(&self, keep: &dyn Fn(&str, Option<&str>) -> bool) {
        retain(&self.lookups, keep);
        retain(&self.duration, keep);
    }

    /// Records one lookup.
    pub(crate) fn record(&self, observer: &str, lookup: &str, outcome: &Outcome, took: Duration) {
        let outcome = match outcome {
            Outcome::Delivered | Outcome::Skipped | Outcome::Cached => "success",
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

impl Collector for LookupMetrics {
    fn desc(&self) -> Vec<&Desc> {
        let duration = self.duration.desc();
        self.lookups.desc().into_iter().chain(duration).collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let duration = self.duration.collect();
        self.lookups.collect().into_iter().chain(duration).collect()
    }
}
