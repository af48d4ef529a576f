//! What is others' is not touched: their objects, their namespaces and their identities.

use crds::v1alpha1::{Observer, ObserverListener};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Namespace, Secret, Service, ServiceAccount};
use k8s_openapi::api::rbac::v1::Role;
use kube::Api;
use kube::api::{Patch, PatchParams};
use serde_json::json;

use super::bundles::bundle_text;
use super::room::{Room, until};
use super::scenarios::events;

/// What was there before a listener, as somebody made it, with the operator's label or without.
pub(super) async fn foreign_objects_are_left_alone(room: Room) {
    room.database().await;
    let labels = json!({ "app.kubernetes.io/managed-by": "observer-operator" });
    let own = json!({ "metadata": { "labels": labels }, "stringData": { "own": "x" } });
    room.apply::<Secret>("shop-listener-bundle", own).await;
    let role = json!({ "rules": [{ "apiGroups": [""], "resources": ["pods"], "verbs": ["get"] }] });
    room.apply::<Role>("shop-listener", role).await;
    let before = async || {
        let secret: Secret = room.get("shop-listener-bundle").await.unwrap();
        let role: Role = room.get("shop-listener").await.unwrap();
        (secret.metadata, role.metadata)
    };
    let was = before().await;
    room.listener("shop", json!({})).await;
    let said = room
        .listener_says("shop", ["Ready", "False", "NameTaken"])
        .await;
    assert!(
        said.contains("Secret shop-listener-bundle") && said.contains("Role shop-listener"),
        "{said}"
    );
    assert!(said.contains("delete or rename it"), "{said}");
    assert!(events(&room, "NameTaken").await > 0);
    // Nothing is made before all of it can be.
    assert!(room.get::<ServiceAccount>("shop-listener").await.is_none());
    assert!(room.get::<Deployment>("shop-listener").await.is_none());
    assert_eq!(before().await, was);
    room.delete::<Role>("shop-listener").await;
    room.delete::<Secret>("shop-listener-bundle").await;
    room.listener_says("shop", ["Ready", "False", "Starting"])
        .await;
    room.edit::<ObserverListener>("shop", json!({ "spec": { "deletionPolicy": "Retain" } }))
        .await;
    room.delete::<ObserverListener>("shop").await;
    room.gone::<ObserverListener>("shop").await;
}

pub(super) async fn disowned_objects_are_left_alone(room: Room) {
    room.database().await;
    room.listener("shop", json!({ "deletionPolicy": "Retain" }))
        .await;
    room.listener_says("shop", ["Ready", "False", "Starting"])
        .await;
    let nobody = json!({ "metadata": { "ownerReferences": [] } });
    room.edit::<Service>("shop-listener", nobody).await;
    room.listener_says("shop", ["Ready", "False", "NameTaken"])
        .await;
    room.delete::<ObserverListener>("shop").await;
    room.gone::<Role>("shop-listener").await;
    assert!(room.get::<Service>("shop-listener").await.is_some());
}

pub(super) async fn identity_belongs_to_its_namespace(room: Room) {
    room.database().await;
    let identity = json!({ "identity": "elsewhere/shop", "deletionPolicy": "Retain" });
    room.listener("first", identity).await;
    let said = room
        .listener_says("first", ["Ready", "False", "Invalid"])
        .await;
    assert!(said.contains("spec.identity"), "{said}");
}

pub(super) async fn other_namespace_must_consent(room: Room) {
    let other = Room::new(room.client.clone(), "crossed").await;
    room.database().await;
    let hidden = "https://hooks.example.com/hidden";
    other.secret("hook", "url", hidden).await;
    // No other listener selects it, such as that of an attempt before.
    let app = format!("crossing-{}", room.namespace);
    let labels = json!({ "metadata": { "labels": { "app": app } } });
    let hook = json!({ "secretKeyRef": { "name": "hook", "key": "url" } });
    other.observer("theirs", hook).await;
    other.edit::<Observer>("theirs", labels).await;
    let crossing = json!({
        "observerNamespaces": { "from": "All" },
        "observerSelector": { "matchLabels": { "app": app } },
        "deletionPolicy": "Retain",
    });
    room.listener("shop", crossing).await;
    let said = other
        .observer_says("theirs", ["Programmed", "False", "NamespaceNotAllowed"])
        .await;
    let (own, there) = (&room.namespace, &other.namespace);
    let label = format!("listeners.observers.fraiseql.dev/{own}");
    let remedy = format!("kubectl label namespace {there} {label}=allowed");
    assert!(said.contains(&remedy), "{said}");
    room.listener_says("shop", ["Degraded", "False", "NamespaceNotAllowed"])
        .await;
    let bundle = async || bundle_text(&room, "shop").await;
    assert!(!bundle().await.contains("theirs"), "it is in the bundle");
    let allow = async |allowed: Option<&str>| {
        let api: Api<Namespace> = Api::all(room.client.clone());
        let patch = json!({ "metadata": { "labels": { &label: allowed } } });
        let patch = Patch::Merge(&patch);
        api.patch(there, &PatchParams::default(), &patch)
            .await
            .unwrap();
    };
    allow(Some("allowed")).await;
    other
        .observer_says("theirs", ["Programmed", "False", "Pending"])
        .await;
    assert!(bundle().await.contains("theirs"), "it is not in the bundle");
    allow(None).await;
    other
        .observer_says("theirs", ["Programmed", "False", "NamespaceNotAllowed"])
        .await;
    until("it is out of the bundle", async || {
        !bundle().await.contains("theirs")
    })
    .await;
}
