//! Registry of metrics that can describe what is registered in it, for the reference of metrics, and write it
//! with exemplars.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use prometheus::core::Collector;
#[cfg(target_os = "linux")]
use prometheus::process_collector::ProcessCollector;
use prometheus::proto::{Metric, MetricFamily, MetricType};
use prometheus::{Encoder, Gauge, Opts, TextEncoder};

use crate::exemplars::{Exemplar, Exemplars, TracedHistogramVec};
use crate::format::Format;
use crate::memory_limit::memory_limit;
use crate::open_metrics;

/// Name, type, labels and meaning of a metric.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct MetricDescription {
    /// The name, with the prefix of the program.
    pub name: String,
    /// `counter`, `gauge` or `histogram`.
    pub kind: &'static str,
    /// Names of the labels that differ between the series of the metric.
    pub labels: Vec<String>,
    /// The help text.
    pub help: String,
}

/// A registry of Prometheus that remembers what was registered in it. `gather` leaves out metrics
/// that have no series yet; `describe` does not.
#[derive(Clone, Debug)]
pub struct Registry {
    inner: prometheus::Registry,
    /// Of the process: its metrics have names in common with those of all programs, so no prefix.
    process: prometheus::Registry,
    prefix: Option<String>,
    described: Arc<Mutex<Vec<MetricDescription>>>,
    /// Of the metrics that have some, by name.
    exemplars: Arc<Mutex<HashMap<String, Exemplars>>>,
}

impl Registry {
    /// Creates a registry whose metrics have a prefix and labels in common.
    pub fn new_custom(
        prefix: Option<String>,
        labels: Option<HashMap<String, String>>,
    ) -> Result<Self, prometheus::Error> {
        Ok(Self {
            inner: prometheus::Registry::new_custom(prefix.clone(), labels.clone())?,
            process: prometheus::Registry::new_custom(None, labels)?,
            prefix,
            described: Arc::default(),
            exemplars: Arc::default(),
        })
    }

    /// Registers the metrics of this process: CPU, memory and its limit, open files, threads, and the start.
    pub fn register_process(&self) -> Result<(), prometheus::Error> {
        let limit = Gauge::with_opts(Opts::new(
            "observer_memory_limit_bytes",
            "Memory that this process and others of its container may use; 0 without a limit",
        ))?;
        // A number of bytes that a double does not hold exactly is as good.
        #[allow(clippy::cast_precision_loss, reason = "a gauge is a double")]
        limit.set(memory_limit().unwrap_or_default() as f64);
        let collectors: Vec<Box<dyn Collector>> = vec![
            Box::new(limit),
            #[cfg(target_os = "linux")]
            Box::new(ProcessCollector::for_self()),
        ];
        for collector in collectors {
            let described = describe(None, &*collector);
            self.process.register(collector)?;
            lock(&self.described).extend(described);
        }
        Ok(())
    }

    /// Registers a collector.
    pub fn register(&self, collector: Box<dyn Collector>) -> Result<(), prometheus::Error> {
        let described = describe(self.prefix.as_deref(), &*collector);
        self.inner.register(collector)?;
        lock(&self.described).extend(described);
        Ok(())
    }

    /// Registers histograms with their exemplars.
    pub fn register_traced(&self, histograms: TracedHistogramVec) -> Result<(), prometheus::Error> {
        let exemplars = histograms.exemplars().clone();
        let described = describe(self.prefix.as_deref(), &histograms);
        self.register(Box::new(histograms))?;
        let named = described.into_iter().map(|metric| metric.name);
        lock(&self.exemplars).extend(named.map(|name| (name, exemplars.clone())));
        Ok(())
    }

    /// Removes a collector.
    pub fn unregister(&self, collector: Box<dyn Collector>) -> Result<(), prometheus::Error> {
        let gone = describe(self.prefix.as_deref(), &*collector);
        self.inner.unregister(collector)?;
        lock(&self.described).retain(|metric| !gone.contains(metric));
        lock(&self.exemplars).retain(|name, _| gone.iter().all(|metric| metric.name != *name));
        Ok(())
    }

    /// Collects the metrics that have series.
    #[must_use]
    pub fn gather(&self) -> Vec<MetricFamily> {
        let mut all = self.inner.gather();
        all.extend(self.process.gather());
        all
    }

    /// Returns the exemplars of a series of a metric.
    #[must_use]
    pub fn exemplars(&self, name: &str, series: &Metric) -> Vec<Exemplar> {
        let all = lock(&self.exemplars).get(name).map(|all| all.of(series));
        all.into_iter().flatten().flatten().collect()
    }

    /// Writes the metrics that have series.
    pub fn render(&self, format: Format) -> Result<Vec<u8>, prometheus::Error> {
        let families = self.gather();
        match format {
            Format::Text => {
                let mut text = Vec::new();
                TextEncoder::new().encode(&families, &mut text)?;
                Ok(text)
            }
            Format::OpenMetrics => open_metrics::encode(&families, &lock(&self.exemplars))
                .map(String::into_bytes)
                .map_err(|error| prometheus::Error::Msg(error.to_string())),
        }
    }

    /// Describes the metrics that are registered, in the order of their names.
    #[must_use]
    pub fn describe(&self) -> Vec<MetricDescription> {
        let mut described = lock(&self.described).clone();
        described.sort();
        described
    }
}

pub(crate) fn lock<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Describes the metrics of a collector.
#[must_use]
pub fn describe(prefix: Option<&str>, collector: &dyn Collector) -> Vec<MetricDescription> {
    let kinds: HashMap<String, &'static str> = collector
        .collect()
        .into_iter()
        .map(|family| (family.name().to_owned(), kind(family.get_field_type())))
        .collect();
    collector
        .desc()
        .into_iter()
        .map(|metric| MetricDescription {
            name: match prefix {
                Some(prefix) => format!("{prefix}_{}", metric.fq_name),
                None => metric.fq_name.clone(),
            },
            kind: kinds.get(&metric.fq_name).copied().unwrap_or("untyped"),
            labels: metric.variable_labels.clone(),
            help: metric.help.clone(),
        })
        .collect()
}

const fn kind(of: MetricType) -> &'static str {
    match of {
        MetricType::COUNTER => "counter",
        MetricType::GAUGE => "gauge",
        MetricType::HISTOGRAM => "histogram",
        MetricType::SUMMARY => "summary",
        MetricType::UNTYPED => "untyped",
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;
    use prometheus::{IntCounterVec, Opts};

    #[test]
    fn process_metrics_have_common_names() {
        let labels = [("listener".to_owned(), "a/b".to_owned())].into();
        let registry = Registry::new_custom(Some("shop".to_owned()), Some(labels)).unwrap();
        registry.register_process().unwrap();
        let families = registry.gather();
        let value = |name: &str| {
            let family = families.iter().find(|one| one.name() == name).unwrap();
            let metric = &family.get_metric()[0];
            assert_eq!(metric.get_label()[0].value(), "a/b", "{name}");
            metric.get_gauge().get_value()
        };
        assert!(value("process_resident_memory_bytes") > 1e5);
        assert!(value("process_start_time_seconds") > 1e9);
        assert!(value("observer_memory_limit_bytes") >= 0.0);
        let described = registry.describe();
        let cpu = described
            .iter()
            .find(|one| one.name == "process_cpu_seconds_total")
            .unwrap();
        assert_eq!(cpu.kind, "counter");
    }

    #[test]
    fn metrics_without_series_are_described() {
        let registry = Registry::new_custom(Some("shop".to_owned()), None).unwrap();
        let opts = Opts::new("orders_total", "Orders placed");
        let orders = IntCounterVec::new(opts, &["country"]).unwrap();
        registry.register(Box::new(orders.clone())).unwrap();
        assert!(registry.gather().is_empty());
        let described = registry.describe();
        assert_eq!(
            described,
            [MetricDescription {
                name: "shop_orders_total".to_owned(),
                kind: "counter",
                labels: vec!["country".to_owned()],
                help: "Orders placed".to_owned(),
            }]
        );
        registry.unregister(Box::new(orders)).unwrap();
        assert!(registry.describe().is_empty());
    }
}
