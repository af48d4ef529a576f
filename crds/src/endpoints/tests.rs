#![allow(clippy::unwrap_used, reason = "a test may panic")]

use serde_json::{Value, json};

use super::*;
use crate::config::Bundle;
use crate::loader::load;
use crate::manifest::SourceFile;

fn bundle(listener: &Value, observer: &Value) -> Bundle {
    let mut spec = json!({"database": {"url": {"value": "postgres://u:p@db.prod.svc/shop"}}});
    for (field, value) in listener.as_object().unwrap() {
        spec[field] = value.clone();
    }
    let mut watching = json!({
        "events": {"entity": "public.orders"},
        "actions": [{"name": "log", "log": {}}],
    });
    for (field, value) in observer.as_object().unwrap() {
        watching[field] = value.clone();
    }
    let document = |kind: &str, name: &str, spec: &Value| {
        json!({
            "apiVersion": "observers.fraiseql.dev/v1alpha1",
            "kind": kind,
            "metadata": {"name": name, "namespace": "shop"},
            "spec": spec,
        })
        .to_string()
    };
    let text = [
        document("ObserverListener", "shop", &spec),
        document("Observer", "orders", &watching),
    ]
    .join("\n---\n");
    let path = "test.yaml".to_owned();
    load(&[SourceFile { path, text }], &|_, _| None, None)
        .unwrap()
        .bundle
}

/// Returns endpoints as `host:port`, with `+` where they name others.
fn texts(endpoints: &BTreeSet<Endpoint>, access: EndpointAccess) -> Vec<String> {
    let of = endpoints.iter().filter(|one| one.access == access);
    let mut found: Vec<String> = of
        .map(|one| {
            let more = if one.is_bootstrap { "+" } else { "" };
            match &one.host {
                EndpointHost::Address(address) => format!("{address}:{}{more}", one.port),
                EndpointHost::Name(name) => format!("{name}:{}{more}", one.port),
                EndpointHost::Unknown => format!("?:{}{more}", one.port),
            }
        })
        .collect();
    found.sort();
    found
}

fn own(listener: &Value) -> Vec<String> {
    let bundle = bundle(listener, &json!({}));
    texts(&of_listener(&bundle.listener), EndpointAccess::Any)
}

#[test]
fn listener_connects_to_all_servers_of_its_own() {
    let url = |text: &str| json!({"url": {"value": text}});
    assert_eq!(own(&json!({})), ["db.prod.svc:5432"]);
    for (postgres, expected) in [
        ("postgres://u:p@10.0.0.7:6432/shop", "10.0.0.7:6432"),
        ("postgres://u:p@[fd00::7]/shop", "fd00::7:5432"),
        ("postgres://u:p@DB.Example.com./shop", "db.example.com:5432"),
        ("postgres:///shop?host=db&port=6432", "db:6432"),
        ("postgres://db/shop?hostaddr=10.0.0.7", "10.0.0.7:5432"),
        ("postgres:///shop", "?:5432"),
    ] {
        assert_eq!(own(&json!({"database": url(postgres)})), [expected]);
    }
    let wal = json!({"source": {"wal": {"database": url("postgres://u:p@primary/shop")}}});
    assert_eq!(own(&wal), ["db.prod.svc:5432", "primary:5432"]);
    let kafka = json!({"source": {"kafka": {
        "name": "orders", "brokers": ["kafka-0.kafka:9092", "10.0.0.8:9093"], "topics": [{"topic": "orders"}],
    }}});
    let brokers = ["10.0.0.8:9093+", "db.prod.svc:5432", "kafka-0.kafka:9092+"];
    assert_eq!(own(&kafka), brokers);
    let more = json!({
        "redis": url("rediss://:p@redis.example.com"),
        "search": {"elasticsearch": url("https://search:9200")},
        "egress": {
            "proxy": url("http://u:p@proxy.internal:3128"),
            "ownDatabase": url("postgres://actions:p@pooler.prod.svc:6432/shop"),
        },
    });
    assert_eq!(
        own(&more),
        [
            "db.prod.svc:5432",
            "pooler.prod.svc:6432",
            "proxy.internal:3128",
            "redis.example.com:6379",
            "search:9200",
        ]
    );
}

#[test]
fn redis_servers_are_named_by_others() {
    let redis = |more: &str, nodes: &[&str]| {
        let url = json!({"value": "redis://:p@a:26379/0"});
        own(&json!({"redis": {"url": url, more: {"nodes": nodes}}}))
    };
    assert_eq!(
        redis("cluster", &["b:6380"]),
        ["a:26379+", "b:6380+", "db.prod.svc:5432"]
    );
    assert_eq!(
        redis("sentinel", &[]),
        ["a:26379", "a:6379+", "db.prod.svc:5432"]
    );
}

#[test]
fn observer_connects_to_endpoints_of_actions_and_lookups() {
    let url = |text: &str| json!({"url": {"value": text}});
    let observer = json!({
        "enrich": [
            {"name": "stock", "postgres": {"url": {"value": "postgres://stock.example.com/stock"}, "statement": "select 1"}},
            {"name": "own", "postgres": {"statement": "select 1"}},
            {"name": "price", "http": url("http://prices/")},
        ],
        "actions": [
            {"name": "a", "webhook": url("https://u:p@hooks.example.com/token?key=1")},
            {"name": "b", "slack": url("https://hooks.slack.com/services/token")},
            {"name": "c", "teams": url("https://teams.example.com:8443/token")},
            {"name": "d", "email": {
                "smtp": {"host": "mail.example.com"}, "from": "a@b.c", "to": ["a@b.c"], "subject": "x", "text": "y",
            }},
            {"name": "e", "postgres": {"url": {"value": "postgres://sink/x"}, "statement": "select 1"}},
            {"name": "f", "redis": {"url": {"value": "redis://cache"}, "publish": {"channel": "x"}}},
            {"name": "g", "nats": {"url": {"value": "tls://nats"}, "subject": "x"}},
            {"name": "h", "kafka": {"brokers": ["kafka:9092"], "topic": "x"}},
            {"name": "i", "log": {}},
        ],
    });
    let bundle = bundle(&json!({}), &observer);
    let found = of_observer(&bundle.observers[0]);
    assert_eq!(
        texts(&found, EndpointAccess::RestrictedHttp),
        [
            "hooks.example.com:443",
            "hooks.slack.com:443",
            "prices:80",
            "teams.example.com:8443"
        ]
    );
    assert_eq!(
        texts(&found, EndpointAccess::Restricted),
        [
            "cache:6379",
            "kafka:9092+",
            "mail.example.com:587",
            "nats:4222",
            "sink:5432",
            "stock.example.com:5432",
        ]
    );
    assert!(texts(&found, EndpointAccess::Any).is_empty());
}

#[test]
fn environment_names_collectors() {
    let variable = |name: &str, value: &str| json!({"name": name, "value": value});
    for (variables, expected) in [
        (vec![], vec![]),
        (vec![variable("RUST_LOG", "http://a:1")], vec![]),
        (vec![variable("OTEL_EXPORTER_OTLP_ENDPOINT", "")], vec![]),
        (
            vec![
                variable("OTEL_EXPORTER_OTLP_ENDPOINT", "http://otel.obs.svc:4317"),
                variable(
                    "OTEL_EXPORTER_OTLP_LOGS_ENDPOINT",
                    "https://logs.example.com/v1/logs",
                ),
            ],
            vec!["logs.example.com:443", "otel.obs.svc:4317"],
        ),
        (
            vec![variable(
                "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
                "http://$(HOST_IP):14318/x",
            )],
            vec!["?:14318"],
        ),
        (
            vec![
                variable("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", "collector:4317"),
                variable(
                    "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
                    "collector.obs.svc:4318/v1/traces",
                ),
                variable("OTEL_EXPORTER_OTLP_LOGS_ENDPOINT", "[fd00::1]:4317"),
            ],
            vec!["collector.obs.svc:4318", "collector:4317", "fd00::1:4317"],
        ),
        (
            vec![
                variable("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", "$(HOST_IP):14317"),
                variable("OTEL_EXPORTER_OTLP_LOGS_ENDPOINT", "$(COLLECTOR)"),
            ],
            vec!["?:14317", "?:4317", "?:4318"],
        ),
        (
            vec![json!({"name": "OTEL_EXPORTER_OTLP_ENDPOINT", "valueFrom": {
                "secretKeyRef": {"name": "otel", "key": "url"},
            }})],
            vec!["?:4317", "?:4318"],
        ),
    ] {
        let variables: Vec<EnvVar> = serde_json::from_value(json!(variables)).unwrap();
        let found = texts(&of_environment(&variables), EndpointAccess::Any);
        assert_eq!(found, expected, "{variables:?}");
    }
}
