//! The examples in the documentation load as they are.

use std::time::Duration;

use observer_crds::config::{ActionKind, Mode, Priority, Redacted};
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
