//! The scenarios.

use std::collections::BTreeMap;
use std::time::Duration;

use crds::pod_status::{ENDPOINT_FAILING, ObserverError, PodProblem};
use crds::v1alpha1::{Observer, ObserverListener};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Event, Secret, Service, ServiceAccount};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::api::rbac::v1::{Role, RoleBinding};
use kube::Api;
use kube::api::{ListParams, PostParams};
use serde_json::json;
use tokio::task::JoinSet;

use super::borders::{
    disowned_objects_are_left_alone, foreign_objects_are_left_alone,
    identity_belongs_to_its_namespace, other_namespace_must_consent,
};
use super::bundles::{bundle_grows_beyond_one_secret_and_shrinks_again, bundle_text};
use super::ends::{
    deleted_listener_leaves_nothing, namespace_deletion_is_not_held_up,
    remaining_rows_are_reported, taken_job_name_skips_the_cleanup,
};
use super::kstatus::kstatus_judges_each_state;
use super::network_policies::derived_policy_follows_observers;
use super::pods::{SHARDS, Told, run_pod};
use super::room::{Room, until};
use super::tables::untracked_table_is_reported_and_heals;
use super::workers::{redis_backend_requires_redis, workers_are_apart};

/// Plays all scenarios, those at the same time that do not disturb each other. Answers with the
/// names of those that failed; the harness has printed why.
pub(super) async fn all(room: impl AsyncFn(&str) -> Room) -> Vec<String> {
    let mut playing = JoinSet::new();
    let mut names = BTreeMap::new();
    macro_rules! play {
        ($($scenario:ident)*) => {$(
            let name = stringify!($scenario);
            let place = room(&name.replace('_', "-")).await;
            names.insert(playing.spawn_local($scenario(place)).id(), name);
        )*};
    }
    play! {
        objects_are_created_and_restored
        missing_secret_is_reported_and_heals
        invalid_observer_is_rejected_alone
        younger_identity_is_rejected
        deleted_listener_leaves_nothing
        namespace_deletion_is_not_held_up
        pod_reports_show_in_the_status
        kstatus_judges_each_state
        workers_are_apart
        redis_backend_requires_redis
        rejected_objects_are_reported
        reserved_variables_are_rejected
        other_namespace_must_consent
        remaining_rows_are_reported
        taken_job_name_skips_the_cleanup
        foreign_objects_are_left_alone
        disowned_objects_are_left_alone
        identity_belongs_to_its_namespace
        bundle_grows_beyond_one_secret_and_shrinks_again
        derived_policy_follows_observers
    }
    let mut failures = Vec::new();
    while let Some(ended) = playing.join_next_with_id().await {
        if let Err(error) = ended {
            failures.push(format!("{} failed: {error}", names[&error.id()]));
        }
    }
    failures
}

pub(super) fn plain() -> serde_json::Value {
    json!({ "value": "https://hooks.example.com/a" })
}

async fn objects_are_created_and_restored(room: Room) {
    room.database().await;
    room.listener("shop", json!({ "replicas": 2 })).await;
    room.observer("orders", plain()).await;
    room.listener_says("shop", ["Ready", "False", "Starting"])
        .await;
    room.listener_says("shop", ["Progressing", "True", "RollingOut"])
        .await;
    room.observer_says("orders", ["Accepted", "True", "Accepted"])
        .await;
    room.observer_says("orders", ["Programmed", "False", "Pending"])
        .await;
    let watching = async |entity: &str| {
        let field = format!("spec.events.entity={entity}");
        let parameters = ListParams::default().fields(&field);
        let found = room.api::<Observer>().list(&parameters).await;
        found.unwrap().items.len()
    };
    assert_eq!(
        [watching("public.orders").await, watching("public.o").await],
        [1, 0]
    );
    let name = "shop-listener";
    assert!(room.get::<ServiceAccount>(name).await.is_some());
    assert!(room.get::<RoleBinding>(name).await.is_some());
    assert!(room.get::<Service>(name).await.is_some());
    assert!(room.get::<NetworkPolicy>(name).await.is_some());
    let bundle: Secret = room.get("shop-listener-bundle").await.unwrap();
    assert!(bundle_text(&room, "shop").await.contains("\"orders\""));
    let listener: ObserverListener = room.get("shop").await.unwrap();
    let hash = listener.status.unwrap().config_hash;
    let annotations = bundle.metadata.annotations.unwrap();
    assert_eq!(
        annotations.get("observers.fraiseql.dev/bundle-hash"),
        hash.as_ref()
    );

    room.delete::<Service>(name).await;
    room.delete::<Secret>("shop-listener-bundle").await;
    room.edit::<Role>(name, json!({ "rules": [] })).await;
    room.edit::<Deployment>(name, json!({ "spec": { "replicas": 7 } }))
        .await;
    until("everything is restored", async || {
        let role: Role = room.get(name).await.unwrap();
        let deployment: Deployment = room.get(name).await.unwrap();
        room.get::<Service>(name).await.is_some()
            && room.get::<Secret>("shop-listener-bundle").await.is_some()
            && role.rules.is_some_and(|rules| rules.len() == 2)
            && deployment.spec.unwrap().replicas == Some(2)
    })
    .await;

    assert!(room.get::<PodDisruptionBudget>(name).await.is_some());
    room.listener("shop", json!({ "replicas": 0 })).await;
    room.gone::<PodDisruptionBudget>(name).await;
    room.listener_says("shop", ["Ready", "False", "ScaledToZero"])
        .await;
    room.observer_says("orders", ["Programmed", "False", "ScaledToZero"])
        .await;
}

async fn missing_secret_is_reported_and_heals(room: Room) {
    room.listener("shop", json!({})).await;
    let said = room
        .listener_says("shop", ["Ready", "False", "SecretMissing"])
        .await;
    assert!(said.contains("`db`") && said.contains("`url`"), "{said}");
    assert!(room.get::<Deployment>("shop-listener").await.is_none());
    room.secret("db", "other", "x").await;
    until("the key is missed", async || {
        let listener: ObserverListener = room.get("shop").await.unwrap();
        let ready = listener.status.unwrap().conditions.remove(0);
        ready.message.contains("has no key `url`")
    })
    .await;
    room.database().await;
    room.listener_says("shop", ["Ready", "False", "Starting"])
        .await;
    until("there is a Deployment", async || {
        room.get::<Deployment>("shop-listener").await.is_some()
    })
    .await;
    // What runs is left as it is.
    room.delete::<Secret>("db").await;
    room.listener_says("shop", ["Ready", "False", "SecretMissing"])
        .await;
    assert!(room.get::<Deployment>("shop-listener").await.is_some());
    assert!(room.get::<Secret>("shop-listener-bundle").await.is_some());
    assert!(events(&room, "SecretMissing").await > 0);
}

async fn invalid_observer_is_rejected_alone(room: Room) {
    room.database().await;
    room.listener(
        "shop",
        json!({ "observerSelector": { "matchLabels": { "app": "shop" } } }),
    )
    .await;
    let labels = json!({ "metadata": { "labels": { "app": "shop" } } });
    let hook = json!({ "secretKeyRef": { "name": "hook", "key": "url" } });
    for (name, url) in [("good", plain()), ("lost", hook)] {
        room.observer(name, url).await;
        room.observer_says(name, ["Accepted", "Unknown", "NotSelected"])
            .await;
        room.edit::<Observer>(name, labels.clone()).await;
    }
    room.observer_says("good", ["Programmed", "False", "Pending"])
        .await;
    let said = room
        .observer_says("lost", ["ResolvedRefs", "False", "SecretMissing"])
        .await;
    assert!(said.contains("`hook`"), "{said}");
    room.listener_says("shop", ["Degraded", "True", "InvalidObservers"])
        .await;
    room.secret("hook", "url", "ftp://hooks.example.com/a")
        .await;
    let said = room
        .observer_says("lost", ["Accepted", "False", "Invalid"])
        .await;
    assert!(said.contains("spec") && !said.contains("ftp"), "{said}");
    room.secret("hook", "url", "https://hooks.example.com/b")
        .await;
    room.observer_says("lost", ["ResolvedRefs", "True", "ResolvedRefs"])
        .await;
    room.listener_says("shop", ["Degraded", "False", "AsExpected"])
        .await;
    room.edit::<Observer>("good", json!({ "spec": { "suspend": true } }))
        .await;
    room.observer_says("good", ["Programmed", "False", "Suspended"])
        .await;
    room.edit::<Observer>("lost", json!({ "metadata": { "labels": { "app": null } } }))
        .await;
    room.observer_says("lost", ["Programmed", "False", "NotSelected"])
        .await;
    assert!(events(&room, "SecretMissing").await > 0);
}

async fn younger_identity_is_rejected(room: Room) {
    room.database().await;
    let identity = format!("{}/orders", room.namespace);
    let identity = json!({ "identity": identity, "deletionPolicy": "Retain" });
    room.listener("elder", identity.clone()).await;
    room.listener_says("elder", ["Ready", "False", "Starting"])
        .await;
    // Times of creation have whole seconds.
    tokio::time::sleep(Duration::from_millis(1100)).await;
    room.listener("a-younger", identity).await;
    let said = room
        .listener_says("a-younger", ["Ready", "False", "IdentityConflict"])
        .await;
    assert!(said.contains("/elder"), "{said}");
    assert!(room.get::<Deployment>("a-younger-listener").await.is_none());
    room.listener_says("elder", ["Ready", "False", "Starting"])
        .await;
    room.delete::<ObserverListener>("elder").await;
    room.listener_says("a-younger", ["Ready", "False", "Starting"])
        .await;
}

async fn pod_reports_show_in_the_status(room: Room) {
    room.database().await;
    let told = Told::at("127.0.0.2").await;
    room.listener("shop", json!({ "deletionPolicy": "Retain" }))
        .await;
    room.observer("orders", plain()).await;
    // From here on the bundle has it.
    room.observer_says("orders", ["Programmed", "False", "Pending"])
        .await;
    let pod = run_pod(&room, "shop", "127.0.0.2").await;
    told.change(|report| {
        report.problem = Some(PodProblem {
            reason: "DatabaseUnreachable".to_owned(),
            message: "cannot reach it".to_owned(),
        });
    });
    room.listener_says("shop", ["Ready", "False", "DatabaseUnreachable"])
        .await;
    let bundle = async || {
        let listener: ObserverListener = room.get("shop").await.unwrap();
        listener.status.unwrap().config_hash.unwrap()
    };
    let first = bundle().await;
    // A shard that nobody has taken up yet, and then one that does not get on.
    told.works(&first);
    told.change(|report| drop(report.shards.pop()));
    let said = room
        .listener_says("shop", ["Ready", "False", "Starting"])
        .await;
    assert_eq!(said, "1 of 8 shards have no owner yet");
    told.works(&first);
    told.stalls();
    let said = room
        .listener_says("shop", ["DeliveryStalled", "True", ENDPOINT_FAILING])
        .await;
    assert_eq!(
        said,
        format!("shard 3 (pod {pod}): hooks.example.com answers 500")
    );
    told.works(&first);
    room.listener_says("shop", ["DeliveryStalled", "False", "MakingProgress"])
        .await;
    room.listener_says("shop", ["Ready", "True", "Delivering"])
        .await;
    room.listener_says("shop", ["Progressing", "False", "UpToDate"])
        .await;
    room.observer_says("orders", ["Programmed", "True", "Programmed"])
        .await;
    let listener: ObserverListener = room.get("shop").await.unwrap();
    let status = listener.status.unwrap();
    assert_eq!(status.lag.as_deref(), Some("0s"));
    assert_eq!(status.shards.len(), usize::from(SHARDS));
    for shard in &status.shards {
        assert_eq!((&*shard.owner, shard.epoch), (&*pod, 3));
        assert_eq!(shard.lag.as_deref(), Some("0s"));
    }
    assert_eq!(
        (status.observers.selected, status.observers.programmed),
        (1, 1)
    );
    untracked_table_is_reported_and_heals(&room, &told, "orders").await;

    // A new observer does not disturb the others on its way.
    room.observer("more", plain()).await;
    room.listener_says("shop", ["Progressing", "True", "LoadingBundle"])
        .await;
    room.observer_says("more", ["Programmed", "False", "Pending"])
        .await;
    room.observer_says("orders", ["Programmed", "True", "Programmed"])
        .await;
    room.listener_says("shop", ["Ready", "True", "Delivering"])
        .await;
    let second = bundle().await;
    assert_ne!(first, second);
    told.works(&second);
    told.change(|report| {
        report.refused = vec![ObserverError {
            observer: format!("{}/more", room.namespace),
            path: "spec.when".to_owned(),
            message: "has no such field".to_owned(),
        }];
    });
    let said = room
        .observer_says("more", ["Accepted", "False", "Invalid"])
        .await;
    assert_eq!(said, "spec.when: has no such field");
    room.listener_says("shop", ["Degraded", "True", "InvalidObservers"])
        .await;
    room.listener_says("shop", ["Ready", "True", "Delivering"])
        .await;
    assert!(events(&room, "Reloaded").await > 0);
}

/// Rules of the definitions that only an API server goes by.
async fn reserved_variables_are_rejected(room: Room) {
    room.database().await;
    let api: Api<ObserverListener> = room.api();
    let with = |env: serde_json::Value| -> ObserverListener {
        let database = json!({ "url": { "value": "postgres://db/shop" } });
        serde_json::from_value(json!({
            "apiVersion": "observers.fraiseql.dev/v1alpha1", "kind": "ObserverListener",
            "metadata": { "name": "shop" },
            "spec": { "database": database, "replicas": 0, "podTemplate": {
                "env": env, "priorityClassName": "high",
            } },
        }))
        .unwrap()
    };
    let parameters = PostParams::default();
    let secret = json!({ "secretKeyRef": { "name": "s", "key": "k" } });
    for (env, words) in [
        (
            json!([{ "name": "OBSERVER_LISTEN", "value": "x" }]),
            "are set by the operator",
        ),
        (
            json!([{ "name": "POD_NAME", "value": "x" }]),
            "are set by the operator",
        ),
        (
            json!([{ "name": "A", "value": "x", "valueFrom": secret }]),
            "not both",
        ),
        (
            json!([{ "name": "A", "value": "x" }, { "name": "A" }]),
            "Duplicate value",
        ),
    ] {
        let refused = api.create(&parameters, &with(env)).await.unwrap_err();
        assert!(refused.to_string().contains(words), "{refused}");
    }
    let right = json!([{ "name": "A", "value": "x" }, { "name": "B", "valueFrom": secret }]);
    api.create(&parameters, &with(right)).await.unwrap();
    until("the pods have it", async || {
        let deployment: Option<Deployment> = room.get("shop-listener").await;
        let pod = deployment.and_then(|deployment| deployment.spec?.template.spec);
        let env = pod.as_ref().and_then(|pod| pod.containers[0].env.as_ref());
        let has = |name: &str| env.into_iter().flatten().any(|one| one.name == name);
        has("A") && has("B") && has("POD_NAME")
    })
    .await;
}

async fn rejected_objects_are_reported(room: Room) {
    room.database().await;
    let labelled =
        |labels| json!({ "podTemplate": { "labels": labels }, "deletionPolicy": "Retain" });
    room.listener("shop", labelled(json!({ "not a label": "x" })))
        .await;
    let said = room
        .listener_says("shop", ["Ready", "False", "ApplyFailed"])
        .await;
    assert!(
        said.contains("Deployment shop-listener") && said.contains("not a label"),
        "{said}"
    );
    room.listener("shop", labelled(json!({ "label": "x" })))
        .await;
    room.listener_says("shop", ["Ready", "False", "Starting"])
        .await;
}

pub(super) async fn events(room: &Room, reason: &str) -> usize {
    let api: Api<Event> = room.api();
    let look = async || {
        let events = api.list(&ListParams::default()).await.unwrap();
        let named = |event: &&Event| event.reason.as_deref() == Some(reason);
        events.items.iter().filter(named).count()
    };
    let what = format!("there is an Event {reason}");
    until(&what, async || look().await > 0).await;
    look().await
}
