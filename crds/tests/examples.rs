//! The examples in the documentation load as they are.

use std::time::Duration;

use observer_crds::config::{ActionKind, Mode, Priority, Redacted, SearchBackend};
use observer_crds::loader::{Loaded, load};
use observer_crds::manifest::SourceFile;

const SHOP: &str = include_str!("../../docs/examples/shop.yaml");
const QUEUED: &str = include_str!("../../docs/examples/queued.yaml");
const SECRETS: &str = include_str!("../../docs/examples/secrets.example.yaml");

fn file(path: &str, text: &str) -> SourceFile {
    SourceFile {
        path: path.into(),
        text: text.into(),
    }
}

fn check_shop(loaded: &Loaded) {
    let bundle = &loaded.bundle;
    assert_eq!(bundle.listener.identity(), "default/shop");
    let names: Vec<&str> = bundle.observers.iter().map(|o| o.name.as_str()).collect();
    assert_eq!(
        names,
        [
            "big-orders",
            "customer-removed",
            "order-audit",
            "paid-orders"
        ]
    );
    let ActionKind::Webhook(ship) = &bundle.observers[3].actions[0].kind else {
        panic!("ship is a webhook");
    };
    assert_eq!(ship.signing_secrets.len(), 1);
    assert!(ship.body.as_ref().unwrap().contains("{{ new.note }}"));
}

#[test]
fn the_shop_loads_with_its_secrets_as_documents() {
    let files = [file("shop.yaml", SHOP), file("secrets.yaml", SECRETS)];
    check_shop(&load(&files, &|_, _| None, None).unwrap());
}

#[test]
fn the_shop_loads_with_its_secrets_from_elsewhere() {
    let secrets = |name: &str, key: &str| {
        let value = match (name, key) {
            ("shop-db", "url") => "postgres://shop@localhost/shop",
            ("shop-hooks", "orders-url") => "http://127.0.0.1:9000/orders",
            ("shop-hooks", "audit-url") => "http://127.0.0.1:9000/audit\n",
            ("shop-hooks", "signing-secret") => "whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3\n",
            _ => return None,
        };
        Some(Redacted::new(value))
    };
    let loaded = load(&[file("shop.yaml", SHOP)], &secrets, None).unwrap();
    check_shop(&loaded);
    let ActionKind::Webhook(record) = &loaded.bundle.observers[2].actions[0].kind else {
        panic!("record is a webhook");
    };
    assert_eq!(record.url.reveal(), "http://127.0.0.1:9000/audit");
}

#[test]
fn the_exports_go_by_the_queue() {
    let files = [file("queued.yaml", QUEUED), file("secrets.yaml", SECRETS)];
    let bundle = load(&files, &|_, _| None, None).unwrap().bundle;
    assert_eq!(bundle.listener.queue.replicas, 2);
    let [report, notify] = &bundle.observers[0].actions[..] else {
        panic!("two actions");
    };
    assert_eq!(report.queue.mode, Mode::Queued);
    assert_eq!(report.queue.max_concurrency_total, Some(4));
    assert_eq!(report.timeout, Duration::from_mins(30));
    assert_eq!(notify.queue.mode, Mode::Inline);
    assert_eq!(notify.queue.priority, Priority::High);
}

#[test]
fn the_history_goes_to_a_search_server() {
    let text = include_str!("../../docs/examples/history.yaml");
    let secrets = |secret: &str, key: &str| {
        let value = match (secret, key) {
            ("shop-db", "url") => "postgres://shop@localhost/shop",
            ("shop-search", "url") => "https://search.example.com:9200",
            ("shop-search", "username") => "observers",
            ("shop-search", "password") => "hunter2",
            ("shop-hooks", "orders-url") => "https://hooks.example.com/orders",
            _ => return None,
        };
        Some(Redacted::new(value))
    };
    let files = [file("history.yaml", text)];
    let bundle = load(&files, &secrets, None).unwrap().bundle;
    let search = bundle.listener.search.unwrap();
    let SearchBackend::Elasticsearch(server) = &search.backend else {
        panic!("{search:?}");
    };
    assert_eq!(server.index, "shop-events");
    assert!(server.login.is_some());
    assert_eq!(search.redact.len(), 2);
    // As the file says.
    let local = text.replacen(
        &text[text.find("    elasticsearch:").unwrap()..text.find("    retention:").unwrap()],
        "    postgres: {}\n",
        1,
    );
    let bundle = load(&[file("history.yaml", &local)], &secrets, None);
    let search = bundle.unwrap().bundle.listener.search.unwrap();
    assert_eq!(search.backend, SearchBackend::Postgres);
}

#[test]
fn every_example_fits_its_schema() {
    for (name, text) in [
        ("slack.yaml", include_str!("../../docs/examples/slack.yaml")),
        ("teams.yaml", include_str!("../../docs/examples/teams.yaml")),
    ] {
        let secrets = |secret: &str, _: &str| {
            let database = secret == "shop-db";
            Some(Redacted::new(if database {
                "postgres://shop@localhost/shop"
            } else {
                "https://h.example/x"
            }))
        };
        let loaded = load(&[file(name, text)], &secrets, None);
        let bundle = loaded.unwrap_or_else(|wrong| panic!("{wrong:?}")).bundle;
        assert_eq!(bundle.observers.len(), 1, "{name}");
    }
}
