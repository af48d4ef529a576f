//! Who may edit or administer one namespace reaches no Secret and no object of another, neither by asking the API server
//! nor by what the operator does for them.

use std::collections::BTreeMap;

use crds::bundle::unpack;
use crds::v1alpha1::{Observer, ObserverListener};
use http::{Method, Request};
use k8s_openapi::api::core::v1::{Event, Secret};
use kube::Client;
use kube::api::ListParams;
use serde_json::{Value, json};

use crate::chart::{Release, apply, delete};
use crate::control_plane::bundles::bundle_text;
use crate::control_plane::plane::{Operator, Plane};
use crate::control_plane::room::{Room, until};

/// What only `blue` may know.
const SECRET: &str = "known-to-blue-alone";

const OBSERVERS: &str = "/apis/observers.fraiseql.dev/v1alpha1/namespaces";
const RBAC: &str = "/apis/rbac.authorization.k8s.io/v1";

/// A request to the API server.
struct Ask(Method, String, Value);

impl Ask {
    fn get(path: String) -> Self {
        Self(Method::GET, path, Value::Null)
    }

    fn post(path: String, body: &Value) -> Self {
        Self(Method::POST, path, body.clone())
    }

    fn patch(path: String, body: &Value) -> Self {
        Self(Method::PATCH, path, body.clone())
    }

    async fn send(&self, client: &Client) -> Result<String, kube::Error> {
        let Self(method, path, body) = self;
        let content = if *method == Method::PATCH {
            "application/merge-patch+json"
        } else {
            "application/json"
        };
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("content-type", content)
            .body(serde_json::to_vec(body).unwrap());
        client.request_text(request.unwrap()).await
    }
}

/// An observer that sends to a URL.
fn observer(name: &str, url: &Value) -> Value {
    json!({
        "apiVersion": "observers.fraiseql.dev/v1alpha1", "kind": "Observer", "metadata": { "name": name },
        "spec": {
            "events": { "entity": "public.orders" },
            "actions": [{ "name": "send", "webhook": { "url": url } }],
        },
    })
}

/// The label by which a namespace allows the listeners of another.
fn consent(listeners: &str) -> Value {
    let label = format!("listeners.observers.fraiseql.dev/{listeners}");
    json!({ "metadata": { "labels": { label: "allowed" } } })
}

/// The operator's rights for the editor.
fn binding(kind: &str, namespace: &str) -> Value {
    json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": kind, "metadata": { "name": "mine" },
        "roleRef": {
            "apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "editing-observer-operator",
        },
        "subjects": [{ "kind": "ServiceAccount", "name": "editor", "namespace": namespace }],
    })
}

/// What an editor of `own` may not ask for: the objects of others, consent in the name of others, their accounts.
fn of_editor(own: &str, other: &str, operator: &str) -> Vec<Ask> {
    let core = "/api/v1/namespaces";
    let suspend = json!({ "spec": { "suspend": true } });
    let holder = json!({ "spec": { "holderIdentity": "me" } });
    let spy = observer("spy", &json!({ "value": "https://red.example.com" }));
    let token = json!({
        "apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": { "audiences": [] },
    });
    vec![
        Ask::get(format!("{core}/{other}/secrets/hook")),
        Ask::get(format!("{core}/{other}/secrets/shop-listener-bundle")),
        Ask::get("/api/v1/secrets".to_owned()),
        Ask::get(format!("{core}/{other}/pods/shop/proxy/status")),
        Ask::get(format!("{OBSERVERS}/{other}/observers")),
        Ask::post(format!("{OBSERVERS}/{other}/observers"), &spy),
        Ask::patch(format!("{OBSERVERS}/{other}/observers/orders"), &suspend),
        Ask::patch(
            format!("{OBSERVERS}/{other}/observerlisteners/shop"),
            &suspend,
        ),
        Ask::patch(format!("{core}/{own}"), &consent(own)),
        Ask::patch(format!("{core}/{other}"), &consent(own)),
        Ask::post(
            format!("{core}/{other}/serviceaccounts/shop-listener/token"),
            &token,
        ),
        Ask::post(
            format!("{core}/{operator}/serviceaccounts/editing-observer-operator/token"),
            &token,
        ),
        Ask::patch(
            format!("/apis/coordination.k8s.io/v1/namespaces/{operator}/leases/observer-operator"),
            &holder,
        ),
    ]
}

/// What only who administers `own` may ask for there, or nobody.
fn beyond_editor(own: &str) -> Vec<Ask> {
    let all = json!({ "spec": { "observerNamespaces": { "from": "All" } } });
    let told = json!({ "status": { "listeners": ["blue/shop"] } });
    let listener = json!({
        "apiVersion": "observers.fraiseql.dev/v1alpha1", "kind": "ObserverListener",
        "metadata": { "name": "more" },
        "spec": { "database": { "url": { "secretKeyRef": { "name": "db", "key": "url" } } } },
    });
    vec![
        Ask::post(format!("{OBSERVERS}/{own}/observerlisteners"), &listener),
        Ask::patch(format!("{OBSERVERS}/{own}/observerlisteners/own"), &all),
        Ask::patch(format!("{OBSERVERS}/{own}/observers/plain/status"), &told),
        Ask::post(
            format!("{RBAC}/namespaces/{own}/rolebindings"),
            &binding("RoleBinding", own),
        ),
    ]
}

/// What who administers `own` may not ask for either.
fn of_admin(own: &str) -> Vec<Ask> {
    vec![
        Ask::post(
            format!("{RBAC}/namespaces/{own}/rolebindings"),
            &binding("RoleBinding", own),
        ),
        Ask::post(
            format!("{RBAC}/clusterrolebindings"),
            &binding("ClusterRoleBinding", own),
        ),
        Ask::patch(format!("/api/v1/namespaces/{own}"), &consent(own)),
    ]
}

/// What the pods of a listener may not ask for, whose account the editor has.
fn of_pods(own: &str, other: &str) -> Vec<Ask> {
    vec![
        Ask::get(format!("/api/v1/namespaces/{other}/secrets/hook")),
        Ask::get(format!(
            "/api/v1/namespaces/{other}/secrets/shop-listener-bundle"
        )),
        Ask::get(format!("/api/v1/namespaces/{own}/secrets/db")),
        Ask::get(format!(
            "/apis/coordination.k8s.io/v1/namespaces/{other}/leases"
        )),
    ]
}

/// Requests of the accounts of `red`, all of which are refused.
async fn requests_are_refused(red: &Room, blue: &Room, operator: &str, plane: &Plane) -> usize {
    let (own, other) = (&*red.namespace, &*blue.namespace);
    let mut count = 0;
    for (account, asks) in [
        ("editor", of_editor(own, other, operator)),
        ("editor", beyond_editor(own)),
        ("admin", of_admin(own)),
        ("own-listener", of_pods(own, other)),
    ] {
        let client = plane.client_of(own, account).await;
        for ask in asks {
            match ask.send(&client).await {
                Err(kube::Error::Api(status)) if status.code == 403 => count += 1,
                got => panic!("{account}: {} {}: {got:?}", ask.0, ask.1),
            }
        }
    }
    count
}

/// Observers of `red` that name a Secret of `blue`.
async fn observers_find_no_secret_of_others(editor: &Room, red: &Room, blue: &Room) -> usize {
    let other = &blue.namespace;
    let reference = |name: &str| json!({ "name": name, "key": "url" });
    let mut with_namespace = reference("hook");
    with_namespace["namespace"] = json!(other);
    let tries = BTreeMap::from([
        ("by-its-name", reference("hook")),
        // The API server drops the field.
        ("by-namespace", with_namespace),
        ("by-a-slash", reference(&format!("{other}/hook"))),
        (
            "by-a-path",
            reference(&format!("../../{other}/secrets/hook")),
        ),
        ("by-a-part", reference("shop-listener-bundle")),
    ]);
    let path = format!("{OBSERVERS}/{}/observers", red.namespace);
    for (name, reference) in &tries {
        let observer = observer(name, &json!({ "secretKeyRef": reference }));
        let ask = Ask::post(path.clone(), &observer);
        ask.send(&editor.client).await.unwrap();
    }
    for (name, reference) in &tries {
        let reason = refused_for(reference["name"].as_str().unwrap_or_default());
        let said = red
            .observer_says(name, ["Programmed", "False", reason])
            .await;
        assert!(!said.contains(SECRET), "{name}: {said}");
    }
    tries.len()
}

/// The reason why a reference to a Secret of this name is refused: no Secret can have it, or there is none.
fn refused_for(name: &str) -> &'static str {
    if name.contains('/') {
        "Invalid"
    } else {
        "SecretMissing"
    }
}

/// Listeners that who administers `red` writes.
async fn listeners_reach_nothing_of_others(admin: &Room, red: &Room, blue: &Room) -> usize {
    let other = &blue.namespace;
    let identity = json!({ "identity": format!("{other}/shop"), "deletionPolicy": "Retain" });
    admin.listener("by-identity", identity).await;
    red.listener_says("by-identity", ["Ready", "False", "Invalid"])
        .await;
    for (name, secret) in [
        ("by-secret", "theirs".to_owned()),
        ("by-path", format!("../../{other}/secrets/theirs")),
    ] {
        let url = json!({ "url": { "secretKeyRef": { "name": secret, "key": "url" } } });
        admin.listener(name, json!({ "database": url })).await;
        red.listener_says(name, ["Ready", "False", refused_for(&secret)])
            .await;
    }
    let crossing = json!({
        "observerNamespaces": { "from": "All" },
        "observerSelector": { "matchLabels": { "of": other } },
        "deletionPolicy": "Retain",
    });
    admin.listener("by-selection", crossing).await;
    let said = red
        .listener_says("by-selection", ["Degraded", "False", "NamespaceNotAllowed"])
        .await;
    assert!(!said.contains(other), "{said}");
    let text = bundle_text(red, "by-selection").await;
    assert!(!text.contains("\"orders\""), "{text}");
    // What is not wholly read is deleted with no more than it had.
    for name in ["by-path", "by-secret", "by-identity"] {
        admin.delete::<ObserverListener>(name).await;
        red.gone::<ObserverListener>(name).await;
    }
    4
}

/// Objects with the names or owners of the operator's own.
async fn objects_are_not_mistaken(editor: &Room, red: &Room, blue: &Room) -> usize {
    let theirs: ObserverListener = blue.get("shop").await.unwrap();
    let owner = json!([{
        "apiVersion": "observers.fraiseql.dev/v1alpha1", "kind": "ObserverListener", "name": "shop",
        "uid": theirs.metadata.uid, "controller": true,
    }]);
    let labels = json!({ "app.kubernetes.io/managed-by": "observer-operator" });
    let object = json!({ "metadata": { "labels": labels, "ownerReferences": owner }, "stringData": { "bundle": "x" } });
    editor.apply::<Secret>("shop-listener-bundle", object).await;
    // The bundle of their own listener comes back as it was.
    let before = bundle_text(red, "own").await;
    editor.delete::<Secret>("own-listener-bundle").await;
    until("the bundle is back", async || {
        red.get::<Secret>("own-listener-bundle").await.is_some()
    })
    .await;
    assert_eq!(bundle_text(red, "own").await, before);
    2
}

/// What the Secrets of `red` hold, unpacked where they are bundles.
async fn secrets(red: &Room) -> String {
    let (mut text, all) = (String::new(), ListParams::default());
    for secret in red.api::<Secret>().list(&all).await.unwrap() {
        for (_, value) in secret.data.unwrap_or_default() {
            let bytes = unpack(&[&value.0]).unwrap_or(value.0);
            text += &String::from_utf8_lossy(&bytes);
        }
    }
    text
}

/// The resources of `red` and its Events.
async fn resources(red: &Room) -> String {
    let all = ListParams::default();
    let observers = red.api::<Observer>().list(&all).await.unwrap();
    let listeners = red.api::<ObserverListener>().list(&all).await.unwrap();
    let events = red.api::<Event>().list(&all).await.unwrap();
    serde_json::to_string(&(observers, listeners, events)).unwrap()
}

/// What `blue` has, by its versions.
async fn versions(blue: &Room) -> Vec<Option<String>> {
    let mut found = Vec::new();
    for name in ["hook", "theirs", "shop-listener-bundle"] {
        let secret: Secret = blue.get(name).await.unwrap();
        found.push(secret.metadata.resource_version);
    }
    let observer: Observer = blue.get("orders").await.unwrap();
    let listener: ObserverListener = blue.get("shop").await.unwrap();
    for meta in [observer.metadata, listener.metadata] {
        found.push(meta.uid);
        found.push(meta.generation.map(|number| number.to_string()));
        found.push(meta.deletion_timestamp.map(|at| at.0.to_string()));
    }
    found
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs a control plane: e2e/run control_plane"]
async fn in_a_control_plane_an_editor_reaches_no_other_namespace() {
    let plane = Plane::start();
    let client = plane.client().await;
    plane.define(&client).await;
    let room = async |name: &str| Room::new(client.clone(), name).await;
    let (home, red, blue) = (room("editing").await, room("red").await, room("blue").await);
    let release = Release {
        name: "editing",
        namespace: &home.namespace,
    };
    let objects = release.render(
        &["rbac.yaml", "rbac-users.yaml", "serviceaccount.yaml"],
        &["--set", "watch.allNamespaces=true"],
    );
    for object in &objects {
        apply(&client, object).await;
    }
    for (account, role) in [("editor", "edit"), ("admin", "admin")] {
        let binding = json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding",
            "metadata": { "name": account, "namespace": red.namespace },
            "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role },
            "subjects": [{ "kind": "ServiceAccount", "name": account, "namespace": red.namespace }],
        });
        apply(&client, &binding).await;
    }
    let account = (release.namespace, "editing-observer-operator");
    let mut operator = Operator::start(&plane, None, Some(account)).await;

    let hook = format!("https://hooks.example.com/{SECRET}");
    blue.secret("hook", "url", &hook).await;
    let url = format!("postgres://u:{SECRET}@127.0.0.1:1/shop");
    blue.secret("theirs", "url", &url).await;
    let database = json!({ "url": { "secretKeyRef": { "name": "theirs", "key": "url" } } });
    let own = json!({ "database": database, "deletionPolicy": "Retain" });
    blue.listener("shop", own).await;
    let reference = json!({ "secretKeyRef": { "name": "hook", "key": "url" } });
    let mut orders = observer("orders", &reference);
    orders["metadata"]["labels"] = json!({ "of": blue.namespace });
    blue.apply::<Observer>("orders", orders).await;
    blue.observer_says("orders", ["Programmed", "False", "Pending"])
        .await;
    until("the bundle has the secret", async || {
        bundle_text(&blue, "shop").await.contains("\"orders\"")
    })
    .await;
    red.database().await;
    red.listener("own", json!({ "deletionPolicy": "Retain" }))
        .await;
    red.observer("plain", json!({ "value": "https://red.example.com" }))
        .await;
    red.observer_says("plain", ["Programmed", "False", "Pending"])
        .await;
    let before = versions(&blue).await;

    let of = async |account: &str| Room {
        client: plane.client_of(&red.namespace, account).await,
        namespace: red.namespace.clone(),
    };
    let (editor, admin) = (of("editor").await, of("admin").await);
    // The roles `edit` and `admin` are added to by and by.
    until("the roles cover the resources", async || {
        let (listeners, observers) = (admin.api::<ObserverListener>(), editor.api::<Observer>());
        let all = ListParams::default();
        listeners.list(&all).await.is_ok() && observers.list(&all).await.is_ok()
    })
    .await;
    let mut ways = requests_are_refused(&red, &blue, &home.namespace, &plane).await;
    ways += observers_find_no_secret_of_others(&editor, &red, &blue).await;
    ways += listeners_reach_nothing_of_others(&admin, &red, &blue).await;
    ways += objects_are_not_mistaken(&editor, &red, &blue).await;
    assert!(ways > 20, "{ways}");
    println!("{ways} ways were tried");
    for readable in [secrets(&red).await, resources(&red).await] {
        assert!(readable.contains("red.example.com"), "{readable}");
        assert!(!readable.contains(SECRET), "{readable}");
    }
    assert_eq!(versions(&blue).await, before);
    operator.stop();
    for object in &objects {
        delete(&client, object).await;
    }
}
