#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::sync::Arc;

use serde_json::{Value, json};

use crate::observers::Compiled;
use crate::runtime::plan::{BundleLoader, RuntimePlan};

/// A bundle as the operator writes it.
#[derive(Clone)]
struct Bundle {
    listener: Value,
    observers: Vec<Value>,
    secrets: Vec<Value>,
}

impl Bundle {
    /// Three observers, of which the second has a secret.
    fn new() -> Self {
        let database = json!({ "url": { "value": "postgres://a:5432/shop" } });
        let token = json!({ "secretKeyRef": { "name": "second", "key": "token" } });
        let mut second = observer("second");
        second["spec"]["actions"][0]["webhook"]["headers"] = json!({ "authorization": token });
        Self {
            listener: resource("ObserverListener", "shop", &json!({ "database": database })),
            observers: vec![observer("first"), second, observer("third")],
            secrets: vec![secret("second", "c2VjcmV0"), secret("unused", "b3RoZXI=")],
        }
    }

    fn text(&self) -> String {
        let listener = std::iter::once(&self.listener);
        let all = listener.chain(&self.observers).chain(&self.secrets);
        let all: Vec<String> = all.map(Value::to_string).collect();
        all.join("\n---\n")
    }
}

fn resource(kind: &str, name: &str, spec: &Value) -> Value {
    // In the order in which the operator writes it.
    json!({
        "apiVersion": "observers.fraiseql.dev/v1alpha1",
        "kind": kind,
        "metadata": { "name": name, "namespace": "shop", "labels": {} },
        "spec": spec,
    })
}

fn observer(name: &str) -> Value {
    let spec = json!({
        "events": { "entity": "public.orders", "operations": ["Insert"] },
        "when": "new.v > 0",
        "actions": [{ "name": "call", "webhook": { "url": { "value": "http://127.0.0.1:9/" } } }],
    });
    resource("Observer", name, &spec)
}

fn secret(name: &str, token: &str) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": { "name": name, "namespace": "shop" },
        "data": { "token": token },
    })
}

fn load(loader: &mut BundleLoader, bundle: &Bundle) -> RuntimePlan {
    loader.load(bundle.text().as_bytes()).unwrap()
}

/// Returns which actions of `now` are those of `before`, and not only alike.
fn kept(before: &RuntimePlan, now: &RuntimePlan) -> Vec<String> {
    let is_old = |target: &&Arc<Compiled>| {
        let before = before.observers.targets().iter();
        before.clone().any(|old| Arc::ptr_eq(old, target))
    };
    let kept = now.observers.targets().iter().filter(is_old);
    kept.map(|target| target.name.observer.trim_start_matches("shop/").to_owned())
        .collect()
}

#[test]
fn change_of_one_compiles_that_one() {
    let kept_after = |change: &dyn Fn(&mut Bundle)| {
        let (mut loader, mut bundle) = (BundleLoader::default(), Bundle::new());
        let before = load(&mut loader, &bundle);
        change(&mut bundle);
        kept(&before, &load(&mut loader, &bundle))
    };
    let all = ["first", "second", "third"];
    assert_eq!(kept_after(&|_| {}), all);
    let condition = |bundle: &mut Bundle| bundle.observers[0]["spec"]["when"] = json!("new.v > 1");
    assert_eq!(kept_after(&condition), ["second", "third"]);
    let removed = |bundle: &mut Bundle| drop(bundle.observers.remove(1));
    assert_eq!(kept_after(&removed), ["first", "third"]);
    let added = |bundle: &mut Bundle| bundle.observers.insert(0, observer("another"));
    assert_eq!(kept_after(&added), all);
    let suspended = |bundle: &mut Bundle| bundle.observers[2]["spec"]["suspend"] = json!(true);
    assert_eq!(kept_after(&suspended), ["first", "second"]);
    let secret_changed = |bundle: &mut Bundle| bundle.secrets[0] = secret("second", "YW5vdGhlcg==");
    assert_eq!(kept_after(&secret_changed), ["first", "third"]);
    let unused = |bundle: &mut Bundle| bundle.secrets[1] = secret("unused", "YW5vdGhlcg==");
    assert_eq!(kept_after(&unused), all);
    let shards = |bundle: &mut Bundle| bundle.listener["spec"]["shards"] = json!(3);
    assert_eq!(kept_after(&shards), all);
    let egress = json!({ "allow": ["127.0.0.0/8"] });
    let egress = |bundle: &mut Bundle| bundle.listener["spec"]["egress"] = egress.clone();
    assert!(kept_after(&egress).is_empty(), "they have other rules");
    let selector = json!({ "matchLabels": { "a": "b" } });
    let selector = |bundle: &mut Bundle| {
        bundle.listener["spec"]["observerSelector"] = selector.clone();
        bundle.observers[1]["metadata"]["labels"] = json!({ "a": "b" });
    };
    assert!(kept_after(&selector).is_empty());
}

#[test]
fn kept_observers_are_in_order_and_selected_again() {
    let (mut loader, mut bundle) = (BundleLoader::default(), Bundle::new());
    load(&mut loader, &bundle);
    bundle.observers.reverse();
    let names = |plan: &RuntimePlan| {
        plan.observers
            .names()
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    let plan = load(&mut loader, &bundle);
    assert_eq!(names(&plan), ["shop/first", "shop/second", "shop/third"]);
    let digest = load(&mut BundleLoader::default(), &bundle);
    assert_eq!(plan.observers.digest(), digest.observers.digest());
    bundle.listener["spec"]["observerSelector"] = json!({ "matchLabels": { "a": "b" } });
    let problem = loader.load(bundle.text().as_bytes()).unwrap_err();
    assert!(problem.message.contains("selects none"), "{problem:?}");
    bundle.listener["spec"]["observerSelector"] = json!({});
    assert_eq!(load(&mut loader, &bundle).observers.len(), 3);
}

#[test]
fn problems_are_told_each_time() {
    let (mut loader, mut bundle) = (BundleLoader::default(), Bundle::new());
    let before = load(&mut loader, &bundle);
    let right = bundle.clone();
    bundle.observers[0]["spec"]["when"] = json!("new.v >");
    for shards in [2, 3] {
        bundle.listener["spec"]["shards"] = json!(shards);
        let plan = load(&mut loader, &bundle);
        let refused = &plan.bundle.as_ref().unwrap().refused;
        assert_eq!((refused.len(), refused[0].path.as_str()), (1, "spec.when"));
    }
    let mut wrong = |change: &dyn Fn(&mut Bundle), message: &str| {
        for shards in [2, 3] {
            let mut bundle = right.clone();
            bundle.listener["spec"]["shards"] = json!(shards);
            change(&mut bundle);
            let problem = loader.load(bundle.text().as_bytes()).unwrap_err();
            assert!(problem.message.contains(message), "{problem:?}");
        }
    };
    wrong(
        &|bundle| bundle.observers[0]["spec"]["wehn"] = json!(""),
        "wehn",
    );
    wrong(&|bundle| drop(bundle.secrets.remove(0)), "second");
    wrong(
        &|bundle| bundle.observers.push(observer("third")),
        "already",
    );
    wrong(
        &|bundle| bundle.listener["spec"]["shards"] = json!(0),
        "spec.shards",
    );
    assert_eq!(
        kept(&before, &load(&mut loader, &right)),
        ["second", "third"]
    );
}

#[tokio::test]
async fn settings_of_the_listener_that_actions_have_compile_all() {
    for (field, value) in [
        ("delivery", json!({ "maxConcurrency": 7 })),
        ("cache", json!({ "ttl": "7s" })),
        (
            "redis",
            json!({ "url": { "value": "redis://127.0.0.1:9/0" } }),
        ),
        ("identity", json!("shop/another")),
    ] {
        let (mut loader, bundle) = (BundleLoader::default(), Bundle::new());
        let before = load(&mut loader, &bundle);
        let mut changed = bundle.clone();
        changed.listener["spec"][field] = value;
        let after = load(&mut loader, &changed);
        assert!(kept(&before, &after).is_empty(), "{field}");
        // What is as it was before the last bundle is compiled again too, for its own settings.
        let back = load(&mut loader, &bundle);
        assert!(kept(&after, &back).is_empty(), "{field}");
    }
}

#[test]
fn changed_labels_of_namespaces_change_the_selection() {
    let (mut loader, mut bundle) = (BundleLoader::default(), Bundle::new());
    let of = json!({ "from": "Selector", "selector": { "matchLabels": { "team": "a" } } });
    bundle.listener["spec"]["observerNamespaces"] = of;
    let mut namespace = |team: &str| {
        let metadata = json!({ "name": "shop", "labels": { "team": team } });
        let namespace = json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": metadata });
        let mut bundle = bundle.clone();
        bundle.secrets.push(namespace);
        let text = bundle.text();
        loader
            .load(text.as_bytes())
            .map(|plan| plan.observers.len())
    };
    assert_eq!(namespace("a").unwrap(), 3);
    assert!(namespace("b").is_err());
    assert_eq!(namespace("a").unwrap(), 3);
}

#[test]
fn last_document_is_the_same_without_its_line_break() {
    let (mut loader, mut bundle) = (BundleLoader::default(), Bundle::new());
    bundle.secrets.clear();
    bundle.observers.remove(1);
    let before = loader
        .load(format!("{}\n", bundle.text()).as_bytes())
        .unwrap();
    bundle.observers.push(observer("zero"));
    let after = loader
        .load(format!("{}\n", bundle.text()).as_bytes())
        .unwrap();
    assert_eq!(kept(&before, &after), ["first", "third"]);
}
