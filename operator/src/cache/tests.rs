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

fn listener(key: &str, spec: &Value) -> (Key, Item) {
    let (namespace, name) = key.split_once('/').unwrap();
    let mut object = json!({
        "apiVersion": "observers.fraiseql.dev/v1alpha1",
        "kind": "ObserverListener",
        "metadata": { "namespace": namespace, "name": name, "uid": key, "generation": 1 },
        "spec": { "source": { "changeLog": { "databaseUrl": {
            "secretKeyRef": { "name": "db", "key": "url" },
        } } } },
    });
    for (field, value) in spec.as_object().unwrap() {
        object["spec"][field] = value.clone();
    }
    let held = parsed(object);
    assert!(matches!(held, Parsed::Valid(_)));
    (Key::new(namespace, name), Item::Listener(held))
}

fn observer_of(key: &str, generation: i64, version: u64, labels: &Value) -> (Key, Item) {
    let (namespace, name) = key.split_once('/').unwrap();
    let object = json!({
        "apiVersion": "observers.fraiseql.dev/v1alpha1",
        "kind": "Observer",
        "metadata": {
            "namespace": namespace, "name": name, "uid": key, "labels": labels,
            "generation": generation, "resourceVersion": version.to_string(),
        },
        "spec": { "on": { "entity": "a.b" }, "actions": [{ "name": "a", "log": {} }] },
    });
    let held = parsed(object);
    (Key::new(namespace, name), Item::Observer(held))
}

fn observer(key: &str, labels: &Value) -> (Key, Item) {
    observer_of(key, 1, 1, labels)
}

fn namespace(name: &str, labels: &[(&str, &str)], terminating: bool) -> (Key, Item) {
    let labels = labels
        .iter()
        .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()));
    let seen = NamespaceSeen {
        labels: labels.collect(),
        terminating,
    };
    (Key::new("", name), Item::Namespace(seen))
}

fn pod(key: &str, listener: &str, worker: bool) -> (Key, Item) {
    let (namespace, name) = key.split_once('/').unwrap();
    let seen = PodSeen {
        listener: Key::new(namespace, listener),
        worker,
        ip: None,
        ready: true,
        terminating: false,
        waiting: None,
    };
    (Key::new(namespace, name), Item::Pod(seen))
}

fn put(index: &mut Index, (key, item): (Key, Item)) -> Vec<String> {
    shown(index.put(key, item))
}

fn shown(work: BTreeSet<Work>) -> Vec<String> {
    work.into_iter()
        .map(|work| match work {
            Work::Listener(key) => format!("listener {key}"),
            Work::Observer(key) => format!("observer {key}"),
        })
        .collect()
}

fn selecting(app: &str) -> Value {
    json!({ "observerSelector": { "matchLabels": { "app": app } } })
}

#[test]
fn an_observer_concerns_those_that_select_it_and_those_that_did() {
    let mut index = Index::default();
    put(&mut index, listener("a/shop", &selecting("shop")));
    put(&mut index, listener("a/blog", &selecting("blog")));
    put(&mut index, listener("b/shop", &selecting("shop")));
    let shop = json!({ "app": "shop" });
    let concerned = put(&mut index, observer("a/x", &shop));
    assert_eq!(concerned, ["listener a/shop", "observer a/x"]);
    let moved = observer_of("a/x", 1, 2, &json!({ "app": "blog" }));
    let concerned = put(&mut index, moved);
    assert_eq!(
        concerned,
        ["listener a/blog", "listener a/shop", "observer a/x"]
    );
    let gone = index.remove(What::Observer, &Key::new("a", "x"));
    assert_eq!(shown(gone), ["listener a/blog", "observer a/x"]);
}

#[test]
fn a_status_alone_concerns_nobody_and_what_is_late_changes_nothing() {
    let mut index = Index::default();
    put(&mut index, listener("a/shop", &json!({})));
    let none = json!({});
    put(&mut index, observer_of("a/x", 1, 5, &none));
    assert!(put(&mut index, observer_of("a/x", 1, 6, &none)).is_empty());
    assert!(!put(&mut index, observer_of("a/x", 2, 8, &none)).is_empty());
    assert!(put(&mut index, observer_of("a/x", 1, 7, &none)).is_empty());
    let held = index.observer(&Key::new("a", "x")).unwrap();
    assert_eq!(held.meta().generation, Some(2));
}

#[test]
fn a_namespace_concerns_those_that_choose_by_its_labels_or_stand_in_it() {
    let mut index = Index::default();
    let chosen = json!({ "observerNamespaces": {
        "from": "Selector", "selector": { "matchLabels": { "team": "web" } },
    } });
    put(&mut index, listener("a/web", &chosen));
    put(&mut index, listener("b/own", &json!({})));
    assert!(put(&mut index, namespace("b", &[], false)).is_empty());
    put(&mut index, observer("b/x", &json!({})));
    let own = index.verdicts(&Key::new("b", "x"));
    assert_eq!(own.len(), 1);
    let labels = [
        ("listeners.observers.fraiseql.dev/a", "allowed"),
        ("team", "web"),
    ];
    let concerned = put(&mut index, namespace("b", &labels, false));
    assert_eq!(concerned, ["listener a/web"]);
    assert_eq!(index.verdicts(&Key::new("b", "x")).len(), 2);
    let concerned = put(&mut index, namespace("b", &labels, true));
    assert_eq!(concerned, ["listener b/own"]);
}

#[test]
fn another_namespace_is_not_reached_without_its_consent() {
    for spec in [
        json!({ "from": "All" }),
        json!({ "from": "Selector", "selector": { "matchLabels": { "team": "web" } } }),
    ] {
        let mut index = Index::default();
        let spec = json!({ "observerNamespaces": spec });
        let (key, item) = listener("a/web", &spec);
        let Item::Listener(Parsed::Valid(own)) = &item else {
            panic!("it is right");
        };
        let own = own.clone();
        index.put(key.clone(), item);
        put(&mut index, observer("a/own", &json!({})));
        put(&mut index, observer("b/x", &json!({})));
        let selected = |index: &Index| -> Vec<Key> {
            let observers = index.snapshot(&key, &own).observers;
            observers.iter().map(|one| Key::of(&one.metadata)).collect()
        };
        let label = |whose: &str| format!("listeners.observers.fraiseql.dev/{whose}");
        for labels in [
            vec![],
            vec![(label("c"), "allowed")],
            vec![(label("a"), "no")],
        ] {
            let mut labels: Vec<_> = labels.iter().map(|(k, v)| (&**k, *v)).collect();
            labels.push(("team", "web"));
            put(&mut index, namespace("b", &labels, false));
            assert!(
                !selected(&index).contains(&Key::new("b", "x")),
                "{labels:?}"
            );
            let verdicts = index.verdicts(&Key::new("b", "x"));
            let [(_, Some(Verdict::NotAllowed { message }))] = &*verdicts else {
                panic!("{verdicts:?}");
            };
            assert!(
                message.contains(&format!("kubectl label namespace b {}=allowed", label("a"))),
                "{message}"
            );
        }
        let consent = (&*label("a"), "allowed");
        let concerned = put(
            &mut index,
            namespace("b", &[consent, ("team", "web")], false),
        );
        assert_eq!(concerned, ["listener a/web"]);
        assert!(selected(&index).contains(&Key::new("b", "x")));
        put(&mut index, namespace("b", &[("team", "web")], false));
        assert!(!selected(&index).contains(&Key::new("b", "x")));
    }
}

#[test]
fn an_operator_that_knows_no_namespaces_says_so() {
    let mut index = Index::default();
    put(&mut index, observer("b/x", &json!({})));
    let all = json!({ "observerNamespaces": { "from": "All" } });
    put(&mut index, listener("a/web", &all));
    let verdicts = index.verdicts(&Key::new("b", "x"));
    let [(_, Some(Verdict::NotAllowed { message }))] = &*verdicts else {
        panic!("{verdicts:?}");
    };
    assert!(message.contains("cannot see what they allow"), "{message}");
}

#[test]
fn a_secret_concerns_its_readers_once_it_changes() {
    let mut index = Index::default();
    let (db, reader) = (Key::new("a", "db"), Key::new("a", "shop"));
    let secret = |version: &str| {
        let version = version.into();
        (
            Key::new("a", "db"),
            Item::Secret(SecretSeen { version }, None),
        )
    };
    assert!(put(&mut index, secret("1")).is_empty());
    index.reads(&reader, [db.clone()].into());
    assert!(put(&mut index, secret("1")).is_empty());
    assert_eq!(put(&mut index, secret("2")), ["listener a/shop"]);
    assert_eq!(shown(index.remove(What::Secret, &db)), ["listener a/shop"]);
    index.reads(&reader, BTreeSet::new());
    assert!(!index.is_read(&db));
    assert!(put(&mut index, secret("3")).is_empty());
}

#[test]
fn an_owned_object_concerns_its_owner_when_it_changes_or_goes() {
    let mut index = Index::default();
    let key = Key::new("a", "shop-listener");
    let service = |version| {
        let owner = Key::new("a", "shop");
        let seen = OwnedSeen {
            owner_uid: owner.to_string(),
            owner,
            uid: "service".to_owned(),
            version,
        };
        let item = Item::Owned(Kind::Service, Some(seen));
        (Key::new("a", "shop-listener"), item)
    };
    assert_eq!(put(&mut index, service(1)), ["listener a/shop"]);
    assert!(put(&mut index, service(1)).is_empty());
    assert_eq!(put(&mut index, service(2)), ["listener a/shop"]);
    let orphaned = (key.clone(), Item::Owned(Kind::Service, None));
    assert_eq!(put(&mut index, orphaned), ["listener a/shop"]);
    put(&mut index, service(2));
    let gone = index.remove(What::Owned(Kind::Service), &key);
    assert_eq!(shown(gone), ["listener a/shop"]);
    assert!(index.keys(What::Owned(Kind::Service), None).is_empty());
}

#[test]
fn listeners_of_one_identity_concern_each_other() {
    let mut index = Index::default();
    let orders = json!({ "identity": "a/orders" });
    put(&mut index, listener("a/x", &orders));
    put(&mut index, listener("a/z", &json!({})));
    let concerned = put(&mut index, listener("a/y", &orders));
    assert_eq!(concerned, ["listener a/x", "listener a/y"]);
    // An identity that is not given is the name.
    let concerned = put(&mut index, listener("a/w", &json!({ "identity": "a/z" })));
    assert_eq!(concerned, ["listener a/w", "listener a/z"]);
    let gone = index.remove(What::Listener, &Key::new("a", "y"));
    assert_eq!(shown(gone), ["listener a/x", "listener a/y"]);
}

#[test]
fn an_identity_concerns_no_other_namespace() {
    let mut index = Index::default();
    let foreign = json!({ "identity": "shop/shop" });
    put(&mut index, listener("evil/first", &foreign));
    let (key, item) = listener("shop/shop", &json!({}));
    let Item::Listener(Parsed::Valid(own)) = &item else {
        panic!("it is right");
    };
    let own = own.clone();
    assert_eq!(put(&mut index, (key.clone(), item)), ["listener shop/shop"]);
    assert!(index.snapshot(&key, &own).rivals.is_empty());
}

#[test]
fn a_verdict_concerns_its_observer_when_it_changes() {
    let mut index = Index::default();
    let (shop, x) = (Key::new("a", "shop"), Key::new("a", "x"));
    put(&mut index, listener("a/shop", &json!({})));
    put(&mut index, observer("a/x", &json!({})));
    assert_eq!(index.verdicts(&x), [(shop.clone(), None)]);
    let says = |verdict: Verdict| Some(BTreeMap::from([(Key::new("a", "x"), verdict)]));
    let work = index.judge(&shop, says(Verdict::Suspended));
    assert_eq!(shown(work), ["observer a/x"]);
    assert!(index.judge(&shop, says(Verdict::Suspended)).is_empty());
    assert_eq!(
        shown(index.judge(&shop, says(Verdict::Programmed(Tracked::Yes)))),
        ["observer a/x"]
    );
    assert_eq!(shown(index.judge(&shop, None)), ["observer a/x"]);
}

#[test]
fn one_that_cannot_be_read_is_alone_with_it() {
    let mut index = Index::default();
    let (key, item) = listener("a/shop", &json!({}));
    index.put(key.clone(), item);
    put(&mut index, observer("a/good", &json!({})));
    let odd = json!({
        "apiVersion": "observers.fraiseql.dev/v1alpha1",
        "kind": "Observer",
        "metadata": { "namespace": "a", "name": "odd", "generation": 1 },
        "spec": { "on": { "entity": "a.b" }, "actions": 7 },
    });
    let held = parsed(odd);
    put(&mut index, (Key::new("a", "odd"), Item::Observer(held)));
    let Some(Parsed::Valid(own)) = index.listener(&key) else {
        panic!("it can be read");
    };
    let snapshot = index.snapshot(&key, &own);
    assert_eq!(snapshot.observers.len(), 1);
    assert_eq!(snapshot.unreadable[0].0, Key::new("a", "odd"));
}

#[test]
fn objects_and_pods_for_jobs_are_told_from_the_others() {
    let mut index = Index::default();
    let (key, item) = listener("web/shop", &json!({}));
    let Item::Listener(Parsed::Valid(shop)) = &item else {
        panic!("it is right");
    };
    let shop = shop.clone();
    index.put(key.clone(), item);
    let owned = |version: u64| OwnedSeen {
        owner: key.clone(),
        owner_uid: "web/shop".to_owned(),
        uid: version.to_string(),
        version,
    };
    let deployment = |ready: i32| DeploymentSeen {
        ready,
        ..DeploymentSeen::default()
    };
    for (kind, ready, version) in [(Kind::Deployment, 1, 7), (Kind::Workers, 2, 8)] {
        let item = Item::Deployment(deployment(ready), Some(owned(version)));
        let work = shown(index.put(owned_key(kind, &key), item));
        assert_eq!(work, ["listener web/shop"], "{kind:?}");
    }
    put(&mut index, pod("web/shop-listener-a", "shop", false));
    let (name, seen) = pod("web/shop-workers-a", "shop", true);
    assert_eq!(shown(index.put(name, seen)), ["listener web/shop"]);
    let snapshot = index.snapshot(&key, &shop);
    let versions: Vec<_> = snapshot.owned.values().map(|seen| seen.version).collect();
    assert_eq!(versions, [7, 8]);
    let pods: Vec<_> = snapshot.pods.into_iter().map(|(name, _)| name).collect();
    assert_eq!(pods, ["shop-listener-a"]);
    assert!(snapshot.workers);
    let ready = |seen: Option<DeploymentSeen>| seen.unwrap().ready;
    assert_eq!(ready(index.deployment(&key)), 1);
    assert_eq!(ready(index.workers(&key)), 2);
    // What was applied is known before the watch tells it.
    index.applied(Kind::Workers, &owned_key(Kind::Workers, &key), owned(9));
    assert_eq!(index.snapshot(&key, &shop).owned[&Kind::Workers].version, 9);
    // One that another listener of the name had, or somebody has who says so, is no object of it.
    let other = OwnedSeen {
        owner_uid: "other".to_owned(),
        ..owned(10)
    };
    let item = Item::Deployment(deployment(5), Some(other));
    index.put(owned_key(Kind::Workers, &key), item);
    assert!(
        !index
            .snapshot(&key, &shop)
            .owned
            .contains_key(&Kind::Workers)
    );
    assert!(index.workers(&key).is_none());
}
