//! How a listener goes.

use crds::v1alpha1::ObserverListener;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Event, Namespace, Secret};
use k8s_openapi::api::rbac::v1::Role;
use kube::api::{DeleteParams, ListParams};
use kube::{Api, Resource};
use serde_json::json;

use super::room::{Room, until};
use super::scenarios::{events, plain};

pub(super) async fn deleted_listener_leaves_nothing(room: Room) {
    room.database().await;
    room.listener("shop", json!({})).await;
    until("there is a Deployment", async || {
        room.get::<Deployment>("shop-listener").await.is_some()
    })
    .await;
    let listener: ObserverListener = room.get("shop").await.unwrap();
    let finalizers = listener.metadata.finalizers.unwrap_or_default();
    assert_eq!(finalizers, ["observers.fraiseql.dev/database-cleanup"]);
    let uid = listener.metadata.uid.unwrap();
    lease(&room, "shop-shard-0-of-8", &uid).await;
    // One of another listener, which is gone, and one of the user's own.
    lease(
        &room,
        "gone-shard-0-of-8",
        "6c7d5f6e-0000-4000-8000-000000000000",
    )
    .await;
    room.apply::<Lease>("own", json!({ "metadata": { "labels": { "app": "own" } } }))
        .await;
    // Nothing says any more where the database is, but what was read before is known.
    room.delete::<Secret>("db").await;
    room.listener_says("shop", ["Ready", "False", "SecretMissing"])
        .await;
    room.delete::<ObserverListener>("shop").await;
    room.gone::<Deployment>("shop-listener").await;
    // The operator goes nowhere itself.
    room.gone_by_its_job("shop", "Succeeded", "").await;
    room.gone::<Secret>("shop-listener-bundle").await;
    room.gone::<Role>("shop-listener").await;
    room.gone::<Lease>("shop-shard-0-of-8").await;
    room.gone::<Lease>("gone-shard-0-of-8").await;
    room.gone::<Job>("shop-listener-drop").await;
    assert!(room.get::<Lease>("own").await.is_some());
    assert!(events(&room, "CleanupSucceeded").await > 0);
}

/// What the Job's pods say is told, and the Job is given up after a few of them. What it needs is made
/// anew where somebody has deleted it, as a deletion in the foreground does.
pub(super) async fn remaining_rows_are_reported(room: Room) {
    room.database().await;
    room.listener("shop", json!({})).await;
    until("there is a Deployment", async || {
        room.get::<Deployment>("shop-listener").await.is_some()
    })
    .await;
    let api: Api<ObserverListener> = room.api();
    api.delete("shop", &DeleteParams::foreground())
        .await
        .unwrap();
    let said = "error: cannot reach Postgres";
    room.gone_by_its_job("shop", "Failed", said).await;
    let api: Api<Event> = room.api();
    assert!(events(&room, "CleanupSkipped").await > 0);
    let events = api.list(&ListParams::default()).await.unwrap();
    let kept = events
        .into_iter()
        .find(|event| event.reason.as_deref() == Some("CleanupSkipped"));
    let note = kept.unwrap().message.unwrap();
    let remedy = format!("observer.drop_listener('{}/shop')", room.namespace);
    assert!(
        note.contains("Not everything was removed: cannot reach Postgres")
            && note.contains(&remedy),
        "{note}"
    );
}

/// A Job that is somebody else's is left as it is.
pub(super) async fn taken_job_name_skips_the_cleanup(room: Room) {
    room.database().await;
    let name = "shop-listener-drop";
    let container = json!({ "name": "own", "image": "example.com/own" });
    let pod = json!({ "restartPolicy": "Never", "containers": [container] });
    let own = json!({ "spec": { "suspend": true, "template": { "spec": pod } } });
    room.apply::<Job>(name, own).await;
    room.listener("shop", json!({})).await;
    until("there is a Deployment", async || {
        room.get::<Deployment>("shop-listener").await.is_some()
    })
    .await;
    room.delete::<ObserverListener>("shop").await;
    room.gone::<ObserverListener>("shop").await;
    assert!(events(&room, "CleanupSkipped").await > 0);
    assert!(room.get::<Job>(name).await.is_some());
}

/// The Lease of a shard, as a pod makes it.
async fn lease(room: &Room, name: &str, listener: &str) {
    let labels = json!({
        "app.kubernetes.io/name": "observer-listener",
        "app.kubernetes.io/instance": "shop",
        "app.kubernetes.io/managed-by": "observer-operator",
        "observers.fraiseql.dev/lease": "shard",
    });
    let owner = json!({
        "apiVersion": ObserverListener::api_version(&()),
        "kind": ObserverListener::kind(&()),
        "name": "shop",
        "uid": listener,
    });
    let meta = json!({ "labels": labels, "ownerReferences": [owner] });
    room.apply::<Lease>(name, json!({ "metadata": meta })).await;
}

pub(super) async fn namespace_deletion_is_not_held_up(room: Room) {
    room.database().await;
    room.listener("shop", json!({})).await;
    room.observer("orders", plain()).await;
    until("there is a Deployment", async || {
        room.get::<Deployment>("shop-listener").await.is_some()
    })
    .await;
    let api: Api<Namespace> = Api::all(room.client.clone());
    api.delete(&room.namespace, &DeleteParams::default())
        .await
        .unwrap();
    until("the namespace is gone", async || {
        api.get_opt(&room.namespace).await.unwrap().is_none()
    })
    .await;
}
