//! Exemplars: for each bucket of a histogram, a span in which its newest value was measured.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use prometheus::core::{Collector, Desc};
use prometheus::proto::{Metric, MetricFamily};
use prometheus::{HistogramOpts, HistogramVec};

/// A span whose trace is recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordedSpan {
    /// Id of the trace.
    pub trace: [u8; 16],
    /// Id of the span.
    pub span: [u8; 8],
}

/// A value that was measured in a span.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Exemplar {
    /// The span.
    pub of: RecordedSpan,
    /// The value.
    pub value: f64,
    /// When it was measured.
    pub at: SystemTime,
}

/// Histograms by labels, which keep an exemplar for each bucket.
#[derive(Clone, Debug)]
pub struct TracedHistogramVec {
    histograms: HistogramVec,
    exemplars: Exemplars,
}

/// The exemplars of the series of one metric. Clones share them.
#[derive(Clone, Debug)]
pub(crate) struct Exemplars {
    /// Names of the labels that differ between series.
    labels: Arc<[String]>,
    /// Bounds of the buckets but the last.
    bounds: Arc<[f64]>,
    series: Arc<Mutex<Series>>,
}

/// Exemplars of the buckets of a series, by the values of its labels.
type Series = HashMap<Vec<String>, Vec<Option<Exemplar>>>;

impl TracedHistogramVec {
    /// Creates histograms that these labels tell apart.
    pub fn new(opts: HistogramOpts, labels: &[&str]) -> Result<Self, prometheus::Error> {
        let exemplars = Exemplars {
            labels: labels.iter().map(|label| (*label).to_owned()).collect(),
            bounds: opts.buckets.as_slice().into(),
            series: Arc::default(),
        };
        let histograms = HistogramVec::new(opts, labels)?;
        Ok(Self {
            histograms,
            exemplars,
        })
    }

    /// Adds a value to a series, and keeps the span in which it was measured, if that is recorded.
    pub fn observe(&self, labels: &[&str], value: f64, span: Option<RecordedSpan>) {
        let Some(of) = span else {
            self.histograms.with_label_values(labels).observe(value);
            return;
        };
        let exemplars = &self.exemplars;
        // With the lock, so that no exemplar is kept of a series that is removed meanwhile.
        let mut series = exemplars.lock();
        self.histograms.with_label_values(labels).observe(value);
        let key = labels.iter().map(|label| (*label).to_owned()).collect();
        let buckets = series
            .entry(key)
            .or_insert_with(|| vec![None; exemplars.bounds.len() + 1]);
        let bucket = exemplars.bounds.partition_point(|bound| *bound < value);
        let at = SystemTime::now();
        buckets[bucket] = Some(Exemplar { of, value, at });
    }

    /// Removes a series with its exemplars. Fails if there is none.
    pub fn remove_label_values(&self, labels: &[&str]) -> Result<(), prometheus::Error> {
        let mut series = self.exemplars.lock();
        series.retain(|of, _| of != labels);
        self.histograms.remove_label_values(labels)
    }

    /// Returns what the registry needs to write them.
    pub(crate) const fn exemplars(&self) -> &Exemplars {
        &self.exemplars
    }
}

impl Collector for TracedHistogramVec {
    fn desc(&self) -> Vec<&Desc> {
        self.histograms.desc()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        self.histograms.collect()
    }
}

impl Exemplars {
    /// Returns the exemplars of a series, one for each bucket; none where it has none.
    pub(crate) fn of(&self, metric: &Metric) -> Vec<Option<Exemplar>> {
        let value = |name: &String| {
            let mut labels = metric.get_label().iter();
            let label = labels.find(|label| label.name() == name);
            label.map(|label| label.value().to_owned())
        };
        let key: Option<Vec<String>> = self.labels.iter().map(value).collect();
        let found = key.and_then(|key| self.lock().get(&key).cloned());
        found.unwrap_or_default()
    }

    fn lock(&self) -> MutexGuard<'_, Series> {
        self.series.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
