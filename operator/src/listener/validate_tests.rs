//! What a listener runs, and when it is refused.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::sync::Arc;

use serde_json::json;

use super::*;

fn listener(
    namespace: &str,
    name: &str,
    identity: Option<&str>,
    created: &str,
) -> ObserverListener {
    let mut value = json!({
        "apiVersion": "observers.fraiseql.dev/v1alpha1",
        "kind": "ObserverListener",
        "metadata": {
            "namespace": namespace, "name": name, "uid": name, "creationTimestamp": created,
        },
        "spec": { "database": { "url": {
            "secretKeyRef": { "name": "db", "key": "url" },
        } } },
    });
    if let Some(identity) = identity {
        value["spec"]["identity"] = json!(identity);
    }
    serde_json::from_value(value).unwrap()
}

fn observer(name: &str, url: &serde_json::Value) -> Arc<Observer> {
    Arc::new(
        serde_json::from_value(json!({
            "apiVersion": "observers.fraiseql.dev/v1alpha1",
            "kind": "Observer",
            "metadata": { "namespace": "shop", "name": name, "generation": 1 },
            "spec": {
                "events": { "entity": "public.orders" },
                "actions": [{ "name": "a", "webhook": { "url": url } }],
            },
        }))
        .unwrap(),
    )
}

fn made(
    key: &ObjectRef,
    listener: &ObserverListener,
    snapshot: &Snapshot,
    secrets: &SecretValues,
) -> Plan {
    plan(
        key,
        listener,
        snapshot,
        secrets,
        &mut CheckedObservers::default(),
    )
}

fn snapshot(observers: Vec<Arc<Observer>>, identity_conflicts: Vec<ObserverListener>) -> Snapshot {
    Snapshot {
        observers,
        unreadable: Vec::new(),
        not_allowed: Vec::new(),
        labelled: true,
        namespaces: BTreeMap::new(),
        identity_conflicts: identity_conflicts.into_iter().map(Arc::new).collect(),
        owned: BTreeMap::new(),
        pods: Vec::new(),
        workers: false,
        terminating: false,
    }
}

fn secret(namespace: &str, url: &str) -> (ObjectRef, Option<BTreeMap<String, Vec<u8>>>) {
    let values = BTreeMap::from([("url".to_owned(), url.as_bytes().to_vec())]);
    (ObjectRef::new(namespace, "db"), Some(values))
}

const URL: &str = "postgres://u:p@db.example.com/shop\n";
const OLD: &str = "2026-01-01T00:00:00Z";
const NEW: &str = "2026-01-02T00:00:00Z";

#[test]
fn invalid_observer_is_left_out_alone() {
    let observers = vec![
        observer("good", &json!({ "value": "https://hooks.example.com/a" })),
        observer(
            "lost",
            &json!({ "secretKeyRef": { "name": "hooks", "key": "url" } }),
        ),
        observer("odd", &json!({ "value": "ftp://hooks.example.com/a" })),
    ];
    let snapshot = snapshot(observers, vec![]);
    let own = listener("shop", "shop", None, OLD);
    let key = ObjectRef::new("shop", "shop");
    let needed = references(&key, &own, &snapshot);
    assert_eq!(
        needed,
        [
            ObjectRef::new("shop", "db"),
            ObjectRef::new("shop", "hooks")
        ]
        .into()
    );
    let plan = made(&key, &own, &snapshot, &[secret("shop", URL)].into());
    let bundle = plan.bundle.unwrap();
    assert_eq!((bundle.id.hash.len(), bundle.id.parts), (64, 1));
    let evaluation = |name| plan.observers.get(&ObjectRef::new("shop", name)).unwrap();
    assert_eq!(evaluation("good"), &None);
    assert!(matches!(
        evaluation("lost"),
        Some(ObserverEvaluation::Unresolved { reason, message })
            if reason == "SecretMissing" && message.contains("`hooks`")
    ));
    assert!(matches!(
        evaluation("odd"),
        Some(ObserverEvaluation::Invalid { .. })
    ));
    let text = bundle::unpack(&[&bundle.packed.parts()[0]]).unwrap();
    let text = String::from_utf8(text).unwrap();
    assert!(text.contains("\"good\"") && !text.contains("\"odd\""));
    assert!(!bundle.listener.reveal().contains("good"));
}

#[test]
fn listener_without_its_secret_is_rejected() {
    let key = ObjectRef::new("shop", "shop");
    let own = listener("shop", "shop", None, OLD);
    let observers = vec![observer(
        "a",
        &json!({ "value": "https://hooks.example.com/a" }),
    )];
    let plan = made(
        &key,
        &own,
        &snapshot(observers, vec![]),
        &SecretValues::new(),
    );
    let refused = plan.bundle.unwrap_err();
    assert_eq!(refused.reason, "SecretMissing");
    assert!(refused.message.contains("`db`"), "{}", refused.message);
    assert_eq!(plan.observers.len(), 1);
}

#[test]
fn younger_listener_of_the_same_identity_is_rejected() {
    let of = |name: &str, url: &str, created: &str| {
        let mut listener = listener("a", name, Some("a/orders"), created);
        let source = &mut listener.spec.database.url;
        source.secret_key_ref = None;
        source.value = Some(url.to_owned());
        listener
    };
    let same = "postgres://other@DB.example.com:5432/shop";
    let (elder, younger) = (of("x", URL, OLD), of("w", same, NEW));
    let reason = |listener: &ObserverListener, peer: &ObserverListener| {
        let key = ObjectRef::of(&listener.metadata);
        let snapshot = snapshot(vec![], vec![peer.clone()]);
        made(&key, listener, &snapshot, &SecretValues::new())
            .bundle
            .err()
            .map(|refused| refused.reason)
    };
    assert_eq!(reason(&elder, &younger), None);
    let refused = reason(&younger, &elder);
    assert_eq!(refused.as_deref(), Some("IdentityConflict"));
    let elsewhere = of("w", "postgres://u@db.example.com/other", NEW);
    assert_eq!(reason(&elsewhere, &elder), None);
    // Made at the same second, the name decides.
    let same = of("w", URL, OLD);
    assert_eq!(reason(&same, &elder), None);
    assert!(reason(&elder, &same).is_some());
}

#[test]
fn identity_of_another_namespace_is_rejected() {
    let secrets = [secret("evil", URL)].into();
    for (identity, refused) in [
        ("shop/shop", true),
        ("shop", true),
        ("evil", true),
        ("evils/x", true),
        ("evil/shop/shop", false),
    ] {
        let own = listener("evil", "x", Some(identity), OLD);
        let key = ObjectRef::new("evil", "x");
        let plan = made(&key, &own, &snapshot(vec![], vec![]), &secrets);
        let error = plan.bundle.err();
        assert_eq!(error.is_some(), refused, "{identity}");
        if let Some(error) = error {
            assert_eq!(error.reason, "Invalid");
            let message = error.message;
            assert!(
                message.contains("spec.identity") && message.contains("`evil/x`"),
                "{message}"
            );
        }
    }
}

#[test]
fn databases_differ_by_host_port_and_name() {
    let read = |url: &str| read_database(&Redacted::new(url), "shop").unwrap();
    let shop = read("postgres://u:p@db.example.com/shop");
    for same in [
        "postgresql://x@DB.example.com.:5432/shop?sslmode=require",
        "postgres://db.example.com?dbname=shop",
        "postgres://x@nowhere/shop?host=db.example.com",
        "postgres://shop@db.example.com",
    ] {
        assert_eq!(read(same), shop, "{same}");
    }
    for other in [
        "postgres://db.example.com:5433/shop",
        "postgres://db.example.com/blog",
        "postgres://db2.example.com/shop",
    ] {
        assert_ne!(read(other), shop, "{other}");
    }
}

#[test]
fn short_service_name_depends_on_the_namespace() {
    let read = |host: &str, namespace: &str| {
        let url = format!("postgres://{host}/shop");
        read_database(&Redacted::new(url), namespace).unwrap()
    };
    assert_ne!(read("pg", "a"), read("pg", "b"));
    for name in ["pg.a.svc", "pg.a.svc.cluster.local"] {
        assert_eq!(read("pg", "a"), read(name, "b"), "{name}");
    }
    assert_eq!(read("localhost", "a"), read("localhost", "b"));
}
