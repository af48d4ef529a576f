//! Traces: from the writer to the receiver, in a real collector.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

use testkit::http_sink::{Behaviour, Handler, Options, Request, Response, Sink};

use crate::enrich::lookup;
use crate::support::collector::{Collector, Span, Takes};
use crate::support::fleet::SHORT_LEASE;
use crate::support::listener::{Config, Process};
use crate::support::probe::{free_address, get, measures, metric};
use crate::support::{TestDb, database, eventually_or};

pub(crate) const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
pub(crate) const WRITER: &str = "00f067aa0ba902b7";

pub(crate) async fn orders() -> TestDb {
    let db = database().await;
    db.run(
        "create table orders (id int primary key, total numeric not null default 0);
         select observer.track('orders')",
    )
    .await;
    db
}

/// A database with orders, a collector, and a sink that accepts what the listener of these files sends.
pub(crate) async fn orders_to_a_collector() -> (TestDb, Collector, Sink, Config) {
    let db = orders().await;
    let (collector, sink) = (
        Collector::start().await,
        Sink::start(Behaviour::Ok).await.unwrap(),
    );
    let config = Config::new(&db.url, "", &observer("", "", &sink.url("/hook")));
    (db, collector, sink, config)
}

/// An observer that posts orders, with a lookup perhaps.
pub(crate) fn observer(enrich: &str, more: &str, url: &str) -> String {
    let body = if enrich.is_empty() {
        ""
    } else {
        ", body: '{{ enrich.rate }}'"
    };
    format!(
        "apiVersion: observers.fraiseql.dev/v1alpha1\nkind: Observer\nmetadata: {{name: notify}}\nspec:\n  \
         events: {{entity: public.orders}}\n{enrich}  actions:\n    - name: post\n{more}      \
         webhook: {{url: {{value: \"{url}\"}}{body}}}\n      \
         retry: {{attempts: 20, initialBackoff: 20ms, maxBackoff: 100ms}}\n---\n"
    )
}

/// A server of lookups, with the header `traceparent` of each.
#[derive(Default)]
struct Rates(Mutex<Vec<String>>);

impl Handler for Rates {
    fn control(&self, request: &Request) -> Option<Response> {
        let given = request.header("traceparent").unwrap_or_default();
        self.0.lock().unwrap().push(given.to_owned());
        Some(Response {
            status: 200,
            body: b"0.5".to_vec(),
            behaviour: None,
        })
    }

    fn delivered(&self, _: &Request, _: u16) {}
}

/// The parts of the header `traceparent` of each request.
fn contexts(sink: &Sink) -> Vec<[String; 3]> {
    let received = sink.received();
    let all = received.iter().map(|one| {
        let parts: Vec<&str> = one.header("traceparent").unwrap().split('-').collect();
        assert_eq!(parts[0], "00");
        [1, 2, 3].map(|n| parts[n].to_owned())
    });
    all.collect()
}

/// One trace from the writer by a lookup, an attempt that fails and a retry to the receiver.
async fn one_trace(collector: &Collector, variables: &[(&str, &str)], more: &str) -> Vec<Span> {
    let db = orders().await;
    let rates = Arc::new(Rates::default());
    let options = Options {
        handler: Some(Arc::clone(&rates) as Arc<dyn Handler>),
        ..Options::default()
    };
    let api = Sink::start_with(options).await.unwrap();
    let sink = Sink::start(Behaviour::Ok).await.unwrap();
    sink.behave_once(Behaviour::Status(503));
    let enrich = format!("  enrich:{}", lookup("rate", &api.url("/rate"), ""));
    let config = Config::new(
        &db.url,
        "",
        &observer(&enrich, more, &sink.url("/hook?token=s3cr3t")),
    );
    let mut variables = variables.to_vec();
    variables.push(("RUST_LOG", "debug"));
    let process = Process::run_with(&config, "off", &variables);
    db.run(&format!(
        "begin; select observer.trace('00-{TRACE}-{WRITER}-01'); insert into orders values (1); commit"
    ))
    .await;
    sink.arrived(2).await;
    let attempts = collector.comes(2, |span| span.name == "POST").await;
    collector
        .comes(1, |span| span.name == "process public.orders")
        .await;
    let said = process.stop().await;
    let spans = collector.spans();
    assert!(spans.iter().all(|span| span.trace == TRACE), "{spans:#?}");

    // The receiver is told each attempt's own span.
    let told = contexts(&sink);
    for (told, attempt) in told.iter().zip(&attempts) {
        assert_eq!(
            *told,
            [TRACE.to_owned(), attempt.id.clone(), "01".to_owned()]
        );
    }
    let outcome = |span: &Span| {
        let of = |name: &str| span.attributes.get(name).cloned().unwrap_or_default();
        let status = of("http.response.status_code");
        (
            of("observer.attempt"),
            of("observer.outcome"),
            status,
            span.is_error,
        )
    };
    let expected = |attempt: &str, outcome: &str, status: &str, is_error| {
        let text = |one: &str| one.to_owned();
        (text(attempt), text(outcome), text(status), is_error)
    };
    assert_eq!(outcome(&attempts[0]), expected("1", "retry", "503", true));
    assert_eq!(
        outcome(&attempts[1]),
        expected("2", "delivered", "200", false)
    );
    let lookups: Vec<&Span> = spans
        .iter()
        .filter(|span| span.name == "lookup rate")
        .collect();
    assert_eq!(lookups.len(), 2);
    for (lookup, attempt) in lookups.iter().zip(&attempts) {
        assert_eq!(lookup.parent, attempt.id);
    }
    let asked = rates.0.lock().unwrap().clone();
    let expected = attempts
        .iter()
        .map(|one| format!("00-{TRACE}-{}-01", one.id));
    assert_eq!(asked, expected.collect::<Vec<_>>());
    // Nothing of the URL but its host, and the trace in the log.
    assert!(!format!("{spans:?}").contains("s3cr3t"));
    let trace_id = format!("trace_id=\"{TRACE}\"");
    let lines = said
        .lines()
        .filter(|line| line.contains("observer::attempt"));
    let lines: Vec<&str> = lines.collect();
    assert_eq!(lines.len(), 2, "{said}");
    for line in lines {
        assert!(line.contains(&trace_id), "{line}");
    }
    spans
}

/// Spans by name, with the name of what each is in.
fn tree(spans: &[Span]) -> BTreeSet<String> {
    let name = |id: &str| {
        let found = spans.iter().find(|span| span.id == id);
        found.map_or("the writer", |span| &*span.name).to_owned()
    };
    let all = spans.iter();
    all.map(|span| format!("{} in {}", span.name, name(&span.parent)))
        .collect()
}

#[tokio::test]
async fn one_trace_leads_from_the_writer_by_a_retry_to_the_receiver() {
    let collector = Collector::start().await;
    let spans = one_trace(&collector, &collector.http(), "").await;
    let expected = [
        "POST in process public.orders",
        "job in process public.orders",
        "lookup rate in POST",
        "match in process public.orders",
        "process public.orders in the writer",
    ];
    assert_eq!(tree(&spans), BTreeSet::from(expected.map(str::to_owned)));
    let event = spans.iter().find(|span| span.kind == 5).unwrap();
    assert_eq!(event.parent, WRITER);
    assert!(event.times.0 < event.times.1);
    let resource = &event.resource;
    assert_eq!(resource["service.name"], "observer-listener");
    assert_eq!(resource["observer.listener"], "default/test");
    let post = spans.iter().find(|span| span.name == "POST").unwrap();
    assert_eq!(
        (post.kind, &*post.attributes["server.address"]),
        (3, "127.0.0.1")
    );
    assert_eq!(post.attributes["http.request.method"], "POST");
}

#[tokio::test]
async fn queued_deliveries_are_traced_by_grpc() {
    let collector = Collector::start().await;
    let mut variables = collector.grpc();
    variables.extend([
        ("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip"),
        ("OTEL_SERVICE_NAME", "shop"),
    ]);
    let spans = one_trace(&collector, &variables, "      mode: Queued\n").await;
    let jobs = spans.iter().filter(|span| span.name == "job");
    assert_eq!(jobs.count(), 2, "one wait for each attempt: {spans:#?}");
    assert!(
        spans
            .iter()
            .all(|span| span.resource["service.name"] == "shop")
    );
}

#[tokio::test]
async fn takeover_after_a_kill_continues_the_trace() {
    let db = orders().await;
    let (collector, sink) = (
        Collector::start().await,
        Sink::start(Behaviour::Hang).await.unwrap(),
    );
    let config = Config::new(&db.url, SHORT_LEASE, &observer("", "", &sink.url("/hook")));
    let first = Process::run_with(&config, "off", &collector.http());
    db.run("insert into orders values (1)").await;
    sink.arrived(1).await;
    first.kill().await;
    sink.behave(Behaviour::Ok);
    let second = Process::run_with(&config, "off", &collector.http());
    sink.arrived(2).await;
    let event = collector.comes(1, |span| span.kind == 5).await.remove(0);
    second.stop().await;
    // No writer gave it: it follows from the event's id.
    let told = contexts(&sink);
    assert_eq!(told[0][0], told[1][0]);
    assert_ne!(told[0][1], told[1][1]);
    let spans = collector.spans();
    assert!(
        spans.iter().all(|span| span.trace == told[0][0]),
        "{spans:#?}"
    );
    assert_eq!(event.parent, "");
    let post = spans.iter().find(|span| span.name == "POST").unwrap();
    assert_eq!((&post.parent, &post.id), (&event.id, &told[1][1]));
}

#[tokio::test]
async fn collectors_that_fail_delay_nothing() {
    const ORDERS: u64 = 3000;
    for takes in [None, Some(Takes::Nothing), Some(Takes::Forever)] {
        let db = orders().await;
        let sink = Sink::start(Behaviour::Ok).await.unwrap();
        let collector = Collector::start().await;
        let nobody = format!("http://{}", free_address());
        let variables = match takes {
            None => vec![("OTEL_EXPORTER_OTLP_ENDPOINT", &*nobody)],
            Some(takes) => {
                collector.takes(takes);
                collector.http()
            }
        };
        let config = Config::new(&db.url, "", &observer("", "", &sink.url("/hook")));
        let listen = free_address();
        let mut variables = variables;
        variables.push(("RUST_LOG", "info,observer::attempt=debug"));
        let mut process = Process::run_with(&config, &listen, &variables);
        process.says("running").await;
        db.run(&format!(
            "insert into orders select generate_series(1, {ORDERS})"
        ))
        .await;
        sink.arrived(ORDERS).await;
        for dropped in ["spans", "logs"] {
            let counter = format!("observer_telemetry_{dropped}_dropped_total");
            let look = async || metric(&listen, &counter).await.filter(|count| *count > 0.0);
            let why = async || format!("{dropped} are dropped by {takes:?}:\n{}", process.said());
            eventually_or(look, why).await;
        }
        // What waits is bounded, so a stop is not held up by it.
        process.stop().await;
        assert_eq!(collector.spans().len(), 0);
    }
}

#[tokio::test]
async fn headers_for_the_collector_are_shown_nowhere() {
    let (db, collector, _sink, config) = orders_to_a_collector().await;
    let listen = free_address();
    for (mut variables, refused) in [
        (collector.http(), false),
        (collector.grpc(), false),
        (collector.http(), true),
    ] {
        let takes = if refused { Takes::Nothing } else { Takes::All };
        collector.takes(takes);
        variables.extend([
            (
                "OTEL_EXPORTER_OTLP_HEADERS",
                "authorization=Bearer%20hidden-login",
            ),
            ("RUST_LOG", "trace"),
        ]);
        let before = collector.spans().len();
        let mut process = Process::run_with(&config, &listen, &variables);
        process.says("running").await;
        db.run("delete from orders; insert into orders values (1)")
            .await;
        if refused {
            process.says("takes no spans").await;
        } else {
            collector.comes(before + 1, |_| true).await;
        }
        measures(&listen, &["observer_telemetry_spans_dropped_total"]).await;
        for path in ["/status", "/metrics"] {
            let (_, text) = get(&listen, path).await.unwrap();
            assert!(!text.contains("hidden-login"), "{path}: {text}");
        }
        let said = process.stop().await;
        assert!(!said.contains("hidden-login"), "{said}");
    }
    let logins = collector.logins();
    assert!(
        logins.len() >= 2 && logins.iter().all(|login| login == "Bearer hidden-login"),
        "{logins:?}"
    );
}

#[tokio::test]
async fn processes_agree_on_what_is_recorded() {
    const ORDERS: u64 = 100;
    let db = orders().await;
    let mut of_ratio = Vec::new();
    for (name, ratio) in [("a", "0.5"), ("b", "0.5"), ("c", "0"), ("d", "1")] {
        let (collector, sink) = (
            Collector::start().await,
            Sink::start(Behaviour::Ok).await.unwrap(),
        );
        let config = Config::new(&db.url, "", &observer("", "", &sink.url("/hook")));
        config.change(
            "metadata: {name: test}",
            &format!("metadata: {{name: {name}}}"),
        );
        let mut variables = collector.http();
        variables.extend([
            ("OTEL_TRACES_SAMPLER", "parentbased_traceidratio"),
            ("OTEL_TRACES_SAMPLER_ARG", ratio),
        ]);
        let process = Process::run_with(&config, "off", &variables);
        if of_ratio.is_empty() {
            db.run(&format!(
                "insert into orders select generate_series(1, {ORDERS})"
            ))
            .await;
        }
        sink.arrived(ORDERS).await;
        process.stop().await;
        let told = contexts(&sink);
        let told = told.into_iter().filter(|[_, _, flags]| flags == "01");
        let told: BTreeSet<String> = told.map(|[trace, ..]| trace).collect();
        let spans = collector.spans().into_iter();
        let traces: BTreeSet<String> = spans.map(|span| span.trace).collect();
        assert_eq!(told, traces, "the receivers are told what is recorded");
        of_ratio.push(traces);
    }
    assert_eq!(of_ratio[0], of_ratio[1]);
    assert!(
        (20..80).contains(&of_ratio[0].len()),
        "half of them: {}",
        of_ratio[0].len()
    );
    assert_eq!((of_ratio[2].len(), of_ratio[3].len()), (0, 100));
}

#[tokio::test]
async fn what_a_writer_gave_is_passed_on_where_traces_are_off() {
    let db = orders().await;
    let sink = Sink::start(Behaviour::Ok).await.unwrap();
    let config = Config::new(&db.url, "", &observer("", "", &sink.url("/hook")));
    let wrong = [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9"),
        ("OTEL_TRACES_SAMPLER", "sometimes"),
    ];
    for variables in [&[][..], &wrong] {
        let before = sink.counts().requests;
        let mut process = Process::run_with(&config, "off", variables);
        if !variables.is_empty() {
            process
                .says("no traces are sent: OTEL_TRACES_SAMPLER is sometimes")
                .await;
        }
        db.run(&format!(
            "delete from orders; insert into orders values (1) /*traceparent='00-{TRACE}-{WRITER}-00'*/"
        ))
        .await;
        sink.arrived(before + 1).await;
        process.stop().await;
        let told = contexts(&sink);
        let last = told.last().unwrap();
        assert_eq!(last, &[TRACE, WRITER, "00"].map(str::to_owned));
    }
}
