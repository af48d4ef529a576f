//! Metrics of a registry as messages of OTLP, with the names that they have for Prometheus.

use std::time::{SystemTime, UNIX_EPOCH};

use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue};
use opentelemetry_proto::tonic::metrics::v1::metric::Data;
use opentelemetry_proto::tonic::metrics::v1::{
    AggregationTemporality, Exemplar, Gauge, Histogram, HistogramDataPoint, Metric,
    NumberDataPoint, Sum, exemplar, number_data_point,
};
use prometheus::proto::{self, MetricFamily, MetricType};
use server::registry::Registry;

/// Since when counts grow, and when they were read, in nanoseconds since 1970.
#[derive(Clone, Copy, Debug)]
struct Times {
    begun: u64,
    read: u64,
}

/// Returns the metrics that have series. Their counts have grown since `begun`.
pub(super) fn metrics(registry: &Registry, begun: SystemTime) -> Vec<Metric> {
    let families = registry.gather();
    let times = Times {
        begun: nanoseconds(begun),
        read: nanoseconds(SystemTime::now()),
    };
    let all = families.iter();
    all.filter_map(|family| metric(registry, family, times))
        .collect()
}

fn metric(registry: &Registry, family: &MetricFamily, times: Times) -> Option<Metric> {
    let series = family.get_metric().iter();
    let temporality = AggregationTemporality::Cumulative.into();
    let data = match family.get_field_type() {
        MetricType::COUNTER => Data::Sum(Sum {
            data_points: series
                .map(|one| number(one, one.get_counter().get_value(), times))
                .collect(),
            aggregation_temporality: temporality,
            is_monotonic: true,
        }),
        MetricType::GAUGE => Data::Gauge(Gauge {
            data_points: series
                .map(|one| number(one, one.get_gauge().get_value(), times))
                .collect(),
        }),
        MetricType::HISTOGRAM => {
            let point = |one| {
                let exemplars = registry.exemplars(family.name(), one);
                let exemplars = exemplars.into_iter().map(exemplar).collect();
                histogram(one, exemplars, times)
            };
            Data::Histogram(Histogram {
                data_points: series.map(point).collect(),
                aggregation_temporality: temporality,
            })
        }
        // The library has none.
        MetricType::SUMMARY | MetricType::UNTYPED => return None,
    };
    Some(Metric {
        name: family.name().to_owned(),
        description: family.help().to_owned(),
        unit: unit(family.name()).to_owned(),
        metadata: Vec::new(),
        data: Some(data),
    })
}

/// Returns the unit that a name ends in, as UCUM writes it.
fn unit(name: &str) -> &'static str {
    let name = name.strip_suffix("_total").unwrap_or(name);
    match name.rsplit_once('_') {
        Some((_, "seconds")) => "s",
        Some((_, "bytes")) => "By",
        _ => "",
    }
}

fn number(series: &proto::Metric, value: f64, times: Times) -> NumberDataPoint {
    NumberDataPoint {
        attributes: attributes(series),
        start_time_unix_nano: times.begun,
        time_unix_nano: times.read,
        exemplars: Vec::new(),
        flags: 0,
        value: Some(number_data_point::Value::AsDouble(value)),
    }
}

fn histogram(series: &proto::Metric, exemplars: Vec<Exemplar>, times: Times) -> HistogramDataPoint {
    let histogram = series.get_histogram();
    let (buckets, count) = (histogram.get_bucket(), histogram.get_sample_count());
    let mut below = 0;
    // Those of Prometheus count all values up to a bound.
    let up_to = buckets.iter().map(proto::Bucket::cumulative_count);
    let bucket_counts = up_to.chain([count]).map(|up_to| {
        let in_bucket = up_to.saturating_sub(below);
        below = up_to;
        in_bucket
    });
    HistogramDataPoint {
        attributes: attributes(series),
        start_time_unix_nano: times.begun,
        time_unix_nano: times.read,
        count,
        sum: Some(histogram.get_sample_sum()),
        bucket_counts: bucket_counts.collect(),
        explicit_bounds: buckets.iter().map(proto::Bucket::upper_bound).collect(),
        exemplars,
        flags: 0,
        min: None,
        max: None,
    }
}

fn exemplar(of: server::exemplars::Exemplar) -> Exemplar {
    Exemplar {
        filtered_attributes: Vec::new(),
        time_unix_nano: nanoseconds(of.at),
        span_id: of.of.span.to_vec(),
        trace_id: of.of.trace.to_vec(),
        value: Some(exemplar::Value::AsDouble(of.value)),
    }
}

fn attributes(series: &proto::Metric) -> Vec<KeyValue> {
    let labels = series.get_label().iter();
    let attributes = labels.map(|label| KeyValue {
        key: label.name().to_owned(),
        value: Some(AnyValue {
            value: Some(Value::StringValue(label.value().to_owned())),
        }),
        key_strindex: 0,
    });
    attributes.collect()
}

fn nanoseconds(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}
