//! Pods for jobs alone.

use crds::v1alpha1::ObserverListener;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::Api;
use kube::api::{ListParams, PostParams};
use serde_json::json;

use super::pods::{Told, run, run_pod};
use super::room::{Room, until};

const NAME: &str = "shop-workers";

/// How many are asked for.
const WORKERS: i32 = 2;

/// An address at which nobody tells anything: pods for jobs are not asked.
const SILENT: &str = "127.0.0.5";

async fn counts(room: &Room) -> Option<(i32, i32)> {
    let listener: ObserverListener = room.get("shop").await?;
    let workers = listener.status?.workers?;
    Some((workers.replicas, workers.ready_replicas))
}

async fn ask_for(room: &Room, workers: i32) {
    let queue = json!({ "workers": { "replicas": workers } });
    room.listener("shop", json!({ "queue": queue, "stalledAfter": "5s" }))
        .await;
}

pub(super) async fn workers_are_apart(room: Room) {
    room.database().await;
    let told = Told::at("127.0.0.4").await;
    ask_for(&room, WORKERS).await;
    until("there are a Deployment and a budget", async || {
        let deployment: Option<Deployment> = room.get(NAME).await;
        let replicas = deployment.and_then(|deployment| deployment.spec?.replicas);
        replicas == Some(WORKERS) && room.get::<PodDisruptionBudget>(NAME).await.is_some()
    })
    .await;
    until("they are counted", async || {
        counts(&room).await == Some((WORKERS, 0))
    })
    .await;

    // The listener is ready without them, and has one pod.
    run_pod(&room, "shop", "127.0.0.4").await;
    room.listener_says("shop", ["Ready", "False", "Starting"])
        .await;
    let listener: ObserverListener = room.get("shop").await.unwrap();
    told.works(&listener.status.unwrap().config_hash.unwrap());
    room.listener_says("shop", ["Ready", "True", "Delivering"])
        .await;
    room.listener_says("shop", ["Progressing", "False", "UpToDate"])
        .await;
    let status = async || {
        let listener: ObserverListener = room.get("shop").await.unwrap();
        listener.status.unwrap()
    };
    let now = status().await;
    assert_eq!((now.replicas, now.ready_replicas), (1, 1));
    let pods: Api<Pod> = room.api();
    let list = async |selector: &str| {
        let parameters = ListParams::default().labels(selector);
        pods.list(&parameters).await.unwrap().items
    };
    assert_eq!(list(&now.selector.unwrap()).await.len(), 1);
    let degraded = async |reason: &str| {
        let conditions = status().await.conditions;
        let degraded = conditions.iter().find(|found| found.type_ == "Degraded");
        degraded.is_some_and(|degraded| degraded.reason == reason)
    };
    until("they are missed", async || {
        degraded("WorkersUnavailable").await
    })
    .await;

    let workers = list("app.kubernetes.io/component=worker").await;
    assert_eq!(workers.len(), 2);
    for pod in workers {
        run(&pods, &pod.metadata.name.unwrap(), SILENT).await;
    }
    until("they are ready", async || {
        counts(&room).await == Some((WORKERS, WORKERS)) && degraded("AsExpected").await
    })
    .await;

    ask_for(&room, 0).await;
    room.gone::<Deployment>(NAME).await;
    room.gone::<PodDisruptionBudget>(NAME).await;
    until("they are not counted any more", async || {
        counts(&room).await.is_none()
    })
    .await;
    room.listener_says("shop", ["Degraded", "False", "AsExpected"])
        .await;
}

pub(super) async fn redis_backend_requires_redis(room: Room) {
    let listener = |redis: Option<&str>| -> ObserverListener {
        let database = json!({ "url": { "value": "postgres://db/shop" } });
        let mut spec =
            json!({ "database": database, "queue": { "backend": "Redis" }, "replicas": 0 });
        if let Some(url) = redis {
            spec["redis"] = json!({ "url": { "value": url } });
        }
        serde_json::from_value(json!({
            "apiVersion": "observers.fraiseql.dev/v1alpha1", "kind": "ObserverListener",
            "metadata": { "name": "shop" }, "spec": spec,
        }))
        .unwrap()
    };
    let api: Api<ObserverListener> = room.api();
    let parameters = PostParams::default();
    let refused = api.create(&parameters, &listener(None)).await.unwrap_err();
    let words = "queue.backend Redis needs redis.url";
    assert!(refused.to_string().contains(words), "{refused}");
    let wrong = listener(Some("http://redis"));
    api.create(&parameters, &wrong).await.unwrap();
    let said = room
        .listener_says("shop", ["Ready", "False", "Invalid"])
        .await;
    assert!(said.contains("spec.redis.url"), "{said}");
}
