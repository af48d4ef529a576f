//! Metrics and log lines over OTLP, in a real collector.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use opentelemetry_proto::tonic::metrics::v1::metric::Data;
use opentelemetry_proto::tonic::metrics::v1::number_data_point::Value;
use opentelemetry_proto::tonic::metrics::v1::{Metric, NumberDataPoint};
use testkit::http_sink::{Handler, Options, Request, Response, Sink};

use crate::support::collector::{Collector, Line, Metrics, Span, hex, texts};
use crate::support::eventually_or;
use crate::support::listener::{Config, Process};
use crate::support::probe::{free_address, get};
use crate::traces::{observer, orders, orders_to_a_collector};

/// Value of a series of a sum or a gauge, by its labels besides the listener's.
fn values(metric: &Metric) -> BTreeMap<String, f64> {
    let points: &[NumberDataPoint] = match metric.data.as_ref().unwrap() {
        Data::Sum(sum) => {
            assert!(
                sum.is_monotonic && sum.aggregation_temporality == 2,
                "{metric:?}"
            );
            &sum.data_points
        }
        Data::Gauge(gauge) => &gauge.data_points,
        _ => &[],
    };
    let values = points.iter().map(|point| {
        assert!(
            0 < point.start_time_unix_nano && point.start_time_unix_nano <= point.time_unix_nano
        );
        let mut labels = texts(&point.attributes);
        assert_eq!(labels.remove("listener").as_deref(), Some("default/test"));
        let labels: Vec<String> = labels.into_values().collect();
        let Some(Value::AsDouble(value)) = point.value else {
            panic!("{point:?}");
        };
        (labels.join(" "), value)
    });
    values.collect()
}

fn metric<'m>(metrics: &'m Metrics, name: &str) -> Option<&'m Metric> {
    metrics.metrics.iter().find(|metric| metric.name == name)
}

/// The newest metrics after the first ones, once so many attempts have succeeded by them.
async fn attempts(collector: &Collector, first: usize, count: f64) -> Metrics {
    let look = async || {
        let newest = collector.metrics().split_off(first).pop()?;
        let attempts = values(metric(&newest, "observer_delivery_attempts_total")?);
        (attempts.get("post default/notify success") == Some(&count)).then_some(newest)
    };
    eventually_or(look, async || {
        format!(
            "{count} attempts, the newest metrics are: {:#?}",
            collector.metrics().pop()
        )
    })
    .await
}

#[tokio::test]
async fn metrics_are_sent_with_the_names_of_prometheus() {
    let (db, collector, _sink, config) = orders_to_a_collector().await;
    for (mut variables, first) in [(collector.http(), 0), (collector.grpc(), 3)] {
        variables.extend([
            ("OTEL_METRIC_EXPORT_INTERVAL", "200"),
            ("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip"),
        ]);
        let (listen, before) = (free_address(), collector.metrics().len());
        let process = Process::run_with(&config, &listen, &variables);
        db.run(&format!(
            "insert into orders select generate_series({first} + 1, {first} + 3)"
        ))
        .await;
        let metrics = attempts(&collector, before, 3.0).await;
        assert_eq!(metrics.resource["service.name"], "observer-listener");
        assert_eq!(metrics.resource["observer.listener"], "default/test");
        let (_, text) = get(&listen, "/metrics").await.unwrap();
        let scraped = text.lines().filter_map(|line| line.strip_prefix("# TYPE "));
        let scraped: BTreeMap<&str, &str> =
            scraped.filter_map(|line| line.split_once(' ')).collect();
        let kind = |metric: &Metric| match metric.data {
            Some(Data::Sum(_)) => "counter",
            Some(Data::Gauge(_)) => "gauge",
            Some(Data::Histogram(_)) => "histogram",
            _ => "",
        };
        for one in &metrics.metrics {
            assert_eq!(scraped.get(&*one.name), Some(&kind(one)), "{}", one.name);
        }
        let unit = |name| &*metric(&metrics, name).unwrap().unit;
        assert_eq!(unit("process_resident_memory_bytes"), "By");
        assert_eq!(unit("process_cpu_seconds_total"), "s");
        assert_eq!(unit("observer_events_total"), "");
        let ready = values(metric(&metrics, "observer_ready").unwrap());
        assert_eq!(ready.get(""), Some(&1.0));
        let latency = metric(&metrics, "observer_delivery_latency_seconds").unwrap();
        let Some(Data::Histogram(latency)) = &latency.data else {
            panic!("{latency:?}");
        };
        let [series] = &*latency.data_points else {
            panic!("{latency:?}");
        };
        assert_eq!((series.count, series.bucket_counts.iter().sum()), (3, 3));
        assert_eq!(series.bucket_counts.len(), series.explicit_bounds.len() + 1);
        // Its exemplars are spans of the same collector.
        let posts = collector.comes(first + 3, |span| span.name == "POST").await;
        let ids = posts.iter().map(|post| (&*post.trace, &*post.id));
        let ids: BTreeSet<(&str, &str)> = ids.collect();
        assert!(!series.exemplars.is_empty());
        for one in &series.exemplars {
            let of = (&*hex(&one.trace_id), &*hex(&one.span_id));
            assert!(ids.contains(&of), "{of:?}");
        }
        process.stop().await;
    }
}

#[tokio::test]
async fn metrics_are_sent_once_more_at_a_stop() {
    let (db, collector, sink, config) = orders_to_a_collector().await;
    let process = Process::run_with(&config, "off", &collector.http());
    db.run("insert into orders values (1)").await;
    sink.arrived(1).await;
    process.stop().await;
    // The interval is a minute.
    attempts(&collector, 0, 1.0).await;
    assert_eq!(collector.metrics().len(), 1);
}

#[tokio::test]
async fn endpoint_for_traces_alone_gets_nothing_else() {
    let (db, collector, _sink, config) = orders_to_a_collector().await;
    let endpoint = format!("{}/v1/traces", collector.http()[0].1);
    let variables = [("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", &*endpoint)];
    let process = Process::run_with(&config, "off", &variables);
    db.run("insert into orders values (1)").await;
    collector.comes(1, |span| span.name == "POST").await;
    process.stop().await;
    assert_eq!((collector.metrics().len(), collector.lines().len()), (0, 0));
}

/// A receiver that refuses the first request, and repeats the secret that it was told.
#[derive(Default)]
struct Repeats(AtomicBool);

impl Handler for Repeats {
    fn control(&self, _: &Request) -> Option<Response> {
        let is_first = !self.0.swap(true, Ordering::Relaxed);
        is_first.then(|| Response {
            status: 503,
            body: b"no entry with s3cr3t".to_vec(),
            behaviour: None,
        })
    }

    fn delivered(&self, _: &Request, _: u16) {}
}

#[tokio::test]
async fn log_lines_are_sent_as_they_stand_on_standard_error() {
    let db = orders().await;
    let collector = Collector::start().await;
    for (id, mut variables) in [(1, collector.http()), (2, collector.grpc())] {
        let options = Options {
            handler: Some(Arc::new(Repeats::default()) as Arc<dyn Handler>),
            ..Options::default()
        };
        let sink = Sink::start_with(options).await.unwrap();
        let url = sink.url("/hook?token=s3cr3t");
        let config = Config::new(&db.url, "", &observer("", "", &url));
        variables.push(("RUST_LOG", "debug"));
        let process = Process::run_with(&config, "off", &variables);
        db.run(&format!("insert into orders values ({id})")).await;
        sink.arrived(1).await;
        let said = process.stop().await;
        let attempts = |line: &&Line| line.target == "observer::attempt";
        let lines: Vec<Line> = collector.lines();
        let [.., failed, delivered] = &*lines.iter().filter(attempts).collect::<Vec<_>>() else {
            panic!("{lines:#?}");
        };
        assert_eq!(failed.message, "an attempt failed");
        assert_eq!(failed.severity, (13, "WARN".to_owned()));
        assert_eq!(delivered.message, "delivered");
        assert_eq!(delivered.severity, (5, "DEBUG".to_owned()));
        assert_eq!(failed.resource["observer.listener"], "default/test");
        assert_eq!(failed.attributes["observer"], "default/notify");
        assert_eq!(
            (
                &*failed.attributes["attempt"],
                &*delivered.attributes["attempt"]
            ),
            ("1", "2")
        );
        let posts: Vec<Span> = collector
            .spans()
            .into_iter()
            .filter(|span| span.name == "POST")
            .collect();
        for (line, span) in [failed, delivered]
            .into_iter()
            .zip(&posts[posts.len() - 2..])
        {
            assert_eq!((&line.trace, &line.span), (&span.trace, &span.id));
        }
        // What is hidden on standard error is hidden here.
        let error = &failed.attributes["error"];
        assert!(
            error.contains("[redacted]") && said.contains(error.as_str()),
            "{error}\n{said}"
        );
        assert!(!format!("{lines:?}").contains("s3cr3t"));
        // Lines of a request are in order within each part of the program alone.
        let is_last = |line: &Line| {
            line.message
                .starts_with("stopped; all that was finished is saved")
        };
        assert!(lines.iter().rev().any(is_last), "{lines:#?}");
    }
}

#[tokio::test]
async fn lines_of_the_exporter_are_not_sent() {
    let (_db, collector, _sink, config) = orders_to_a_collector().await;
    for variables in [collector.http(), collector.grpc()] {
        let endpoint = variables[0].1;
        let address = endpoint.rsplit('/').next().unwrap();
        let mut variables = variables.clone();
        variables.extend([
            ("RUST_LOG", "trace"),
            ("OTEL_TRACES_EXPORTER", "none"),
            ("OTEL_METRICS_EXPORTER", "none"),
        ]);
        let before = collector.lines().len();
        let mut process = Process::run_with(&config, "off", &variables);
        process.says(address).await;
        let look = async || (collector.lines().len() > before).then_some(());
        eventually_or(look, async || process.said()).await;
        process.stop().await;
        let lines = collector.lines().split_off(before);
        for line in lines {
            assert!(!format!("{line:?}").contains(address), "{line:?}");
        }
    }
}
