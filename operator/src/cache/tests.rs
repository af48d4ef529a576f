//! Whom a change concerns.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test may panic")]

use kube::core::DeserializeGuard;
use serde_json::{Value, json};

use super::*;
use crate::cache::projection::CustomResource;
use crate::observer::evaluation::Tracked;

fn parsed<K: CustomResource>(object: Value) -> Parsed<K> {
    let object: DeserializeGuard<K> = serde_json::from_value(object).unwrap();
    object.into()
}

fn listener(key: &str, spec: &Value) -> (ObjectRef, CachedObject) {
    let (namespace, name) = key.split_once('/').unwrap();
    let mut object = json!({
        "apiVersion": "observers.fraiseql.dev/v1alpha1",
        "kind": "ObserverListener",
        "metadata": { "namespace": namespace, "name": name, "uid": key, "generation": 1 },
        "spec": { "database": { "url": {
            "secretKeyRef": { "name": "db", "key": "url" },
        } } },
    });
    for (field, value) in spec.as_object().unwrap() {
        object["spec"][field] = value.clone();
    }
    let held = parsed(object);
    assert!(matches!(held, Parsed::Valid(_)));
    (
        ObjectRef::new(namespace, name),
        CachedObject::Listener(held),
    )
}

fn observer_of(
    key: &str,
    generation: i64,
    version: u64,
    labels: &Value,
) -> (ObjectRef, CachedObject) {
    let (namespace, name) = key.split_once('/').unwrap();
    let object = json!({
        "apiVersion": "observers.fraiseql.dev/v1alpha1",
        "kind": "Observer",
        "metadata": {
            "namespace": namespace, "name": name, "uid": key, "labels": labels,
            "generation": generation, "resourceVersion": version.to_string(),
        },
        "spec": { "events": { "entity": "a.b" }, "actions": [{ "name": "a", "log": {} }] },
    });
    let held = parsed(object);
    (
        ObjectRef::new(namespace, name),
        CachedObject::Observer(held),
    )
}

fn observer(key: &str, labels: &Value) -> (ObjectRef, CachedObject) {
    observer_of(key, 1, 1, labels)
}

fn namespace(name: &str, labels: &[(&str, &str)], terminating: bool) -> (ObjectRef, CachedObject) {
    let labels = labels
        .iter()
        .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()));
    let seen = NamespaceInfo {
        labels: labels.collect(),
        terminating,
    };
    (ObjectRef::new("", name), CachedObject::Namespace(seen))
}

fn pod(key: &str, listener: &str, worker: bool) -> (ObjectRef, CachedObject) {
    let (namespace, name) = key.split_once('/').unwrap();
    let seen = PodInfo {
        listener: ObjectRef::new(namespace, listener),
        worker,
        ip: None,
        ready: true,
        terminating: false,
        waiting: None,
    };
    (ObjectRef::new(namespace, name), CachedObject::Pod(seen))
}

fn upsert(index: &mut Index, (key, item): (ObjectRef, CachedObject)) -> Vec<String> {
    shown(index.upsert(key, item))
}

fn shown(work: BTreeSet<ReconcileRequest>) -> Vec<String> {
    work.into_iter()
        .map(|work| match work {
            ReconcileRequest::Listener(key) => format!("listener {key}"),
            ReconcileRequest::Observer(key) => format!("observer {key}"),
        })
        .collect()
}

fn selecting(app: &str) -> Value {
    json!({ "observerSelector": { "matchLabels": { "app": app } } })
}

#[test]
fn observer_enqueues_present_and_former_selectors() {
    let mut index = Index::default();
    upsert(&mut index, listener("a/shop", &selecting("shop")));
    upsert(&mut index, listener("a/blog", &selecting("blog")));
    upsert(&mut index, listener("b/shop", &selecting("shop")));
    let shop = json!({ "app": "shop" });
    let concerned = upsert(&mut index, observer("a/x", &shop));
    assert_eq!(concerned, ["listener a/shop", "observer a/x"]);
    let moved = observer_of("a/x", 1, 2, &json!({ "app": "blog" }));
    let concerned = upsert(&mut index, moved);
    assert_eq!(
        concerned,
        ["listener a/blog", "listener a/shop", "observer a/x"]
    );
    let gone = index.remove(WatchedKind::Observer, &ObjectRef::new("a", "x"));
    assert_eq!(shown(gone), ["listener a/blog", "observer a/x"]);
}

#[test]
fn status_and_stale_objects_enqueue_nothing() {
    let mut index = Index::default();
    upsert(&mut index, listener("a/shop", &json!({})));
    let none = json!({});
    upsert(&mut index, observer_of("a/x", 1, 5, &none));
    assert!(upsert(&mut index, observer_of("a/x", 1, 6, &none)).is_empty());
    assert!(!upsert(&mut index, observer_of("a/x", 2, 8, &none)).is_empty());
    assert!(upsert(&mut index, observer_of("a/x", 1, 7, &none)).is_empty());
    let held = index.observer(&ObjectRef::new("a", "x")).unwrap();
    assert_eq!(held.meta().generation, Some(2));
}

#[test]
fn namespace_enqueues_its_selectors_and_its_listeners() {
    let mut index = Index::default();
    let chosen = json!({ "observerNamespaces": {
        "from": "Selector", "selector": { "matchLabels": { "team": "web" } },
    } });
    upsert(&mut index, listener("a/web", &chosen));
    upsert(&mut index, listener("b/own", &json!({})));
    assert!(upsert(&mut index, namespace("b", &[], false)).is_empty());
    upsert(&mut index, observer("b/x", &json!({})));
    let own = index.evaluations(&ObjectRef::new("b", "x"));
    assert_eq!(own.len(), 1);
    let labels = [
        ("listeners.observers.fraiseql.dev/a", "allowed"),
        ("team", "web"),
    ];
    let concerned = upsert(&mut index, namespace("b", &labels, false));
    assert_eq!(concerned, ["listener a/web"]);
    assert_eq!(index.evaluations(&ObjectRef::new("b", "x")).len(), 2);
    let concerned = upsert(&mut index, namespace("b", &labels, true));
    assert_eq!(concerned, ["listener b/own"]);
}

#[test]
fn namespace_without_consent_is_not_selected() {
    for spec in [
        json!({ "from": "All" }),
        json!({ "from": "Selector", "selector": { "matchLabels": { "team": "web" } } }),
    ] {
        let mut index = Index::default();
        let spec = json!({ "observerNamespaces": spec });
        let (key, item) = listener("a/web", &spec);
        let CachedObject::Listener(Parsed::Valid(own)) = &item else {
            panic!("it is right");
        };
        let own = own.clone();
        index.upsert(key.clone(), item);
        upsert(&mut index, observer("a/own", &json!({})));
        upsert(&mut index, observer("b/x", &json!({})));
        let selected = |index: &Index| -> Vec<ObjectRef> {
            let observers = index.snapshot(&key, &own).observers;
            observers
                .iter()
                .map(|one| ObjectRef::of(&one.metadata))
                .collect()
        };
        let label = |whose: &str| format!("listeners.observers.fraiseql.dev/{whose}");
        for labels in [
            vec![],
            vec![(label("c"), "allowed")],
            vec![(label("a"), "no")],
        ] {
            let mut labels: Vec<_> = labels.iter().map(|(k, v)| (&**k, *v)).collect();
            labels.push(("team", "web"));
            upsert(&mut index, namespace("b", &labels, false));
            assert!(
                !selected(&index).contains(&ObjectRef::new("b", "x")),
                "{labels:?}"
            );
            let evaluations = index.evaluations(&ObjectRef::new("b", "x"));
            let [(_, Some(ObserverEvaluation::NotAllowed { message }))] = &*evaluations else {
                panic!("{evaluations:?}");
            };
            assert!(
                message.contains(&format!("kubectl label namespace b {}=allowed", label("a"))),
                "{message}"
            );
        }
        let consent = (&*label("a"), "allowed");
        let concerned = upsert(
            &mut index,
            namespace("b", &[consent, ("team", "web")], false),
        );
        assert_eq!(concerned, ["listener a/web"]);
        assert!(selected(&index).contains(&ObjectRef::new("b", "x")));
        upsert(&mut index, namespace("b", &[("team", "web")], false));
        assert!(!selected(&index).contains(&ObjectRef::new("b", "x")));
    }
}

#[test]
fn evaluation_says_when_namespaces_are_unknown() {
    let mut index = Index::default();
    upsert(&mut index, observer("b/x", &json!({})));
    let all = json!({ "observerNamespaces": { "from": "All" } });
    upsert(&mut index, listener("a/web", &all));
    let evaluations = index.evaluations(&ObjectRef::new("b", "x"));
    let [(_, Some(ObserverEvaluation::NotAllowed { message }))] = &*evaluations else {
        panic!("{evaluations:?}");
    };
    assert!(message.contains("cannot see what they allow"), "{message}");
}

#[test]
fn changed_secret_enqueues_its_readers() {
    let mut index = Index::default();
    let (db, reader) = (ObjectRef::new("a", "db"), ObjectRef::new("a", "shop"));
    let secret = |version: &str| {
        let version = version.into();
        (
            ObjectRef::new("a", "db"),
            CachedObject::Secret(SecretInfo { version }, None),
        )
    };
    assert!(upsert(&mut index, secret("1")).is_empty());
    index.set_secret_refs(&reader, [db.clone()].into());
    assert!(upsert(&mut index, secret("1")).is_empty());
    assert_eq!(upsert(&mut index, secret("2")), ["listener a/shop"]);
    assert_eq!(
        shown(index.remove(WatchedKind::Secret, &db)),
        ["listener a/shop"]
    );
    index.set_secret_refs(&reader, BTreeSet::new());
    assert!(!index.is_referenced(&db));
    assert!(upsert(&mut index, secret("3")).is_empty());
}

#[test]
fn changed_or_deleted_object_enqueues_its_owner() {
    let mut index = Index::default();
    let key = ObjectRef::new("a", "shop-listener");
    let service = |version| {
        let owner = ObjectRef::new("a", "shop");
        let seen = OwnedInfo {
            owner_uid: owner.to_string(),
            owner,
            uid: "service".to_owned(),
            version,
        };
        let item = CachedObject::Owned(Kind::Service, Some(seen));
        (ObjectRef::new("a", "shop-listener"), item)
    };
    assert_eq!(upsert(&mut index, service(1)), ["listener a/shop"]);
    assert!(upsert(&mut index, service(1)).is_empty());
    assert_eq!(upsert(&mut index, service(2)), ["listener a/shop"]);
    let orphaned = (key.clone(), CachedObject::Owned(Kind::Service, None));
    assert_eq!(upsert(&mut index, orphaned), ["listener a/shop"]);
    upsert(&mut index, service(2));
    let gone = index.remove(WatchedKind::Owned(Kind::Service), &key);
    assert_eq!(shown(gone), ["listener a/shop"]);
    assert!(
        index
            .keys(WatchedKind::Owned(Kind::Service), None)
            .is_empty()
    );
}

#[test]
fn listeners_of_one_identity_enqueue_each_other() {
    let mut index = Index::default();
    let orders = json!({ "identity": "a/orders" });
    upsert(&mut index, listener("a/x", &orders));
    upsert(&mut index, listener("a/z", &json!({})));
    let concerned = upsert(&mut index, listener("a/y", &orders));
    assert_eq!(concerned, ["listener a/x", "listener a/y"]);
    // An identity that is not given is the name.
    let concerned = upsert(&mut index, listener("a/w", &json!({ "identity": "a/z" })));
    assert_eq!(concerned, ["listener a/w", "listener a/z"]);
    let gone = index.remove(WatchedKind::Listener, &ObjectRef::new("a", "y"));
    assert_eq!(shown(gone), ["listener a/x", "listener a/y"]);
}

#[test]
fn identity_conflicts_within_a_namespace_only() {
    let mut index = Index::default();
    let foreign = json!({ "identity": "shop/shop" });
    upsert(&mut index, listener("evil/first", &foreign));
    let (key, item) = listener("shop/shop", &json!({}));
    let CachedObject::Listener(Parsed::Valid(own)) = &item else {
        panic!("it is right");
    };
    let own = own.clone();
    assert_eq!(
        upsert(&mut index, (key.clone(), item)),
        ["listener shop/shop"]
    );
    assert!(index.snapshot(&key, &own).identity_conflicts.is_empty());
}

#[test]
fn changed_evaluation_enqueues_its_observer() {
    let mut index = Index::default();
    let (shop, x) = (ObjectRef::new("a", "shop"), ObjectRef::new("a", "x"));
    upsert(&mut index, listener("a/shop", &json!({})));
    upsert(&mut index, observer("a/x", &json!({})));
    assert_eq!(index.evaluations(&x), [(shop.clone(), None)]);
    let says = |evaluation: ObserverEvaluation| {
        Some(BTreeMap::from([(ObjectRef::new("a", "x"), evaluation)]))
    };
    let work = index.set_evaluations(&shop, says(ObserverEvaluation::Suspended));
    assert_eq!(shown(work), ["observer a/x"]);
    assert!(
        index
            .set_evaluations(&shop, says(ObserverEvaluation::Suspended))
            .is_empty()
    );
    assert_eq!(
        shown(index.set_evaluations(&shop, says(ObserverEvaluation::Programmed(Tracked::Yes)))),
        ["observer a/x"]
    );
    assert_eq!(shown(index.set_evaluations(&shop, None)), ["observer a/x"]);
}

#[test]
fn unparsable_observer_affects_no_other() {
    let mut index = Index::default();
    let (key, item) = listener("a/shop", &json!({}));
    index.upsert(key.clone(), item);
    upsert(&mut index, observer("a/good", &json!({})));
    let odd = json!({
        "apiVersion": "observers.fraiseql.dev/v1alpha1",
        "kind": "Observer",
        "metadata": { "namespace": "a", "name": "odd", "generation": 1 },
        "spec": { "events": { "entity": "a.b" }, "actions": 7 },
    });
    let held = parsed(odd);
    upsert(
        &mut index,
        (ObjectRef::new("a", "odd"), CachedObject::Observer(held)),
    );
    let Some(Parsed::Valid(own)) = index.listener(&key) else {
        panic!("it can be read");
    };
    let snapshot = index.snapshot(&key, &own);
    assert_eq!(snapshot.observers.len(), 1);
    assert_eq!(snapshot.unreadable[0].0, ObjectRef::new("a", "odd"));
}

#[test]
fn workers_and_their_objects_are_apart() {
    let mut index = Index::default();
    let (key, item) = listener("web/shop", &json!({}));
    let CachedObject::Listener(Parsed::Valid(shop)) = &item else {
        panic!("it is right");
    };
    let shop = shop.clone();
    index.upsert(key.clone(), item);
    let owned = |version: u64| OwnedInfo {
        owner: key.clone(),
        owner_uid: "web/shop".to_owned(),
        uid: version.to_string(),
        version,
    };
    let deployment = |ready: i32| DeploymentInfo {
        ready,
        ..DeploymentInfo::default()
    };
    for (kind, ready, version) in [(Kind::Deployment, 1, 7), (Kind::Workers, 2, 8)] {
        let item = CachedObject::Deployment(deployment(ready), Some(owned(version)));
        let work = shown(index.upsert(owned_key(kind, &key), item));
        assert_eq!(work, ["listener web/shop"], "{kind:?}");
    }
    upsert(&mut index, pod("web/shop-listener-a", "shop", false));
    let (name, seen) = pod("web/shop-workers-a", "shop", true);
    assert_eq!(shown(index.upsert(name, seen)), ["listener web/shop"]);
    let snapshot = index.snapshot(&key, &shop);
    let versions: Vec<_> = snapshot.owned.values().map(|seen| seen.version).collect();
    assert_eq!(versions, [7, 8]);
    let pods: Vec<_> = snapshot.pods.into_iter().map(|(name, _)| name).collect();
    assert_eq!(pods, ["shop-listener-a"]);
    assert!(snapshot.workers);
    let ready = |seen: Option<DeploymentInfo>| seen.unwrap().ready;
    assert_eq!(ready(index.deployment(&key)), 1);
    assert_eq!(ready(index.workers(&key)), 2);
    // What was applied is known before the watch tells it.
    index.record_applied(Kind::Workers, &owned_key(Kind::Workers, &key), owned(9));
    assert_eq!(index.snapshot(&key, &shop).owned[&Kind::Workers].version, 9);
    // One that another listener of the name had, or somebody has who says so, is no object of it.
    let other = OwnedInfo {
        owner_uid: "other".to_owned(),
        ..owned(10)
    };
    let item = CachedObject::Deployment(deployment(5), Some(other));
    index.upsert(owned_key(Kind::Workers, &key), item);
    assert!(
        !index
            .snapshot(&key, &shop)
            .owned
            .contains_key(&Kind::Workers)
    );
    assert!(index.workers(&key).is_none());
}
