//! Exemplars: from a histogram in a real Prometheus to the trace in a real collector.

use testkit::http_sink::{Behaviour, Sink};
use testkit::servers::prometheus::Prometheus;

use crate::support::collector::{Collector, Span};
use crate::support::eventually_or;
use crate::support::listener::{Config, Process};
use crate::support::probe::{ask_prometheus, free_address};
use crate::traces::{TRACE, WRITER, observer, orders};

/// Ids of the trace and the span of each exemplar of a metric that Prometheus has.
async fn exemplars(prometheus: &Prometheus, metric: &str) -> Option<Vec<[String; 2]>> {
    let range = [("start", "0"), ("end", "9999999999")];
    let parameters = [("query", metric), range[0], range[1]];
    let found = ask_prometheus(&prometheus.address, "query_exemplars", &parameters).await?;
    let series = found.as_array().unwrap().iter();
    let all = series.flat_map(|one| one["exemplars"].as_array().unwrap());
    let ids = all.map(|one| {
        let labels = &one["labels"];
        [&labels["trace_id"], &labels["span_id"]].map(|id| id.as_str().unwrap().to_owned())
    });
    Some(ids.collect())
}

#[tokio::test]
async fn exemplars_lead_from_prometheus_to_the_span_of_a_delivery() {
    const METRICS: [&str; 2] = [
        "observer_delivery_attempt_duration_seconds_bucket",
        "observer_delivery_latency_seconds_bucket",
    ];
    let db = orders().await;
    let (collector, sink) = (
        Collector::start().await,
        Sink::start(Behaviour::Ok).await.unwrap(),
    );
    let listen = free_address();
    let prometheus = Prometheus::start(std::slice::from_ref(&listen), &[], "groups: []").await;
    let mut posts: Vec<Span> = Vec::new();
    for (n, more) in [(1, ""), (2, "      mode: Queued\n")] {
        let config = Config::new(&db.url, "", &observer("", more, &sink.url("/hook")));
        let process = Process::run_with(&config, &listen, &collector.http());
        db.run(&format!("insert into orders values ({n})")).await;
        // The writer says that this one is not recorded.
        db.run(&format!(
            "insert into orders values (-{n}) /*traceparent='00-{TRACE}-{WRITER}-00'*/"
        ))
        .await;
        sink.arrived(2 * n).await;
        posts = collector
            .comes(posts.len() + 1, |span| span.name == "POST")
            .await;
        let newest = posts
            .last()
            .map(|post| [post.trace.clone(), post.id.clone()]);
        for metric in METRICS {
            let look = async || {
                let found = exemplars(&prometheus, metric).await?;
                newest.as_ref().filter(|ids| found.contains(ids)).map(drop)
            };
            eventually_or(look, async || {
                let found = exemplars(&prometheus, metric).await;
                let said = prometheus.said();
                format!("{metric} leads to {newest:?}, it leads to {found:?}; {said}")
            })
            .await;
        }
        process.stop().await;
    }
    for metric in METRICS {
        for [trace, span] in exemplars(&prometheus, metric).await.unwrap() {
            let is_known = posts
                .iter()
                .any(|post| post.trace == trace && post.id == span);
            assert!(is_known, "{metric}: {trace} {span}");
        }
    }
}
