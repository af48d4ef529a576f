//! Series of observers and actions that are no more.

use prometheus::core::{Collector, MetricVec, MetricVecBuilder};
use server::exemplars::TracedHistogramVec;

/// A metric whose series can be removed.
pub(crate) trait RemoveSeries: Collector {
    /// Removes the series with these values of its labels. Fails if there is none.
    fn remove(&self, labels: &[&str]) -> Result<(), prometheus::Error>;
}

impl<T: MetricVecBuilder> RemoveSeries for MetricVec<T> {
    fn remove(&self, labels: &[&str]) -> Result<(), prometheus::Error> {
        self.remove_label_values(labels)
    }
}

impl RemoveSeries for TracedHistogramVec {
    fn remove(&self, labels: &[&str]) -> Result<(), prometheus::Error> {
        self.remove_label_values(labels)
    }
}

/// Removes the series of a metric whose observer, or whose action, is not to be kept. Series are only ever
/// added by observers that run, so a metric is as large as the configuration, and not as its past.
pub(crate) fn retain(metric: &impl RemoveSeries, keep: &dyn Fn(&str, Option<&str>) -> bool) {
    let names: Vec<String> = metric
        .desc()
        .iter()
        .flat_map(|desc| desc.variable_labels.clone())
        .collect();
    for family in metric.collect() {
        for series in family.get_metric() {
            let value = |name: &str| {
                let mut labels = series.get_label().iter();
                labels
                    .find(|label| label.name() == name)
                    .map(prometheus::proto::LabelPair::value)
            };
            if value("observer").is_none_or(|observer| keep(observer, value("action"))) {
                continue;
            }
            let values: Vec<&str> = names.iter().filter_map(|name| value(name)).collect();
            // It fails only if the series is gone already.
            let _gone = metric.remove(&values);
        }
    }
}
