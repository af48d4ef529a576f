//! The scenarios.

use std::collections::BTreeMap;
use std::time::Duration;

use crds::report::{RECEIVER_FAILING, Refusal, StalledShard, Trouble};
use crds::resources::{Observer, ObserverListener};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Event, Namespace, Secret, Service, ServiceAccount};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::api::rbac::v1::{Role, RoleBinding};
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::{Api, Resource};
use serde_json::json;
use tokio::task::JoinSet;

use super::plane::Operator;
use super::pods::{SHARDS, Told, run_pod};
use super::rest::nothing_is_written_at_rest;
use super::room::{Room, until};
use super::workers::{jobs_in_redis_need_one, pods_for_jobs_are_apart};

/// Plays all scenarios, those at the same time that do not disturb each other. Answers with the
/// names of those that failed; the harness has printed why.
pub(super) async fn all(room: impl AsyncFn(&str) -> Room, operator: &Operator) -> Vec<String> {
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
        objects_are_made_and_restored
        a_missing_secret_shows_and_heals
        an_observer_is_refused_alone
        of_one_identity_the_younger_is_refused
        a_listener_goes_with_all_it_had
        a_namespace_goes_at_once
        pods_are_heard
        pods_for_jobs_are_apart
        jobs_in_redis_need_one
        what_the_api_server_refuses_is_told
        variables_of_the_operator_are_refused
        another_namespace_must_allow_it
        rows_that_stay_are_told_of
        rows_stay_where_the_name_of_the_job_is_taken
        what_others_made_is_left_as_it_is
        what_is_given_away_is_left_as_it_is
        an_identity_is_of_its_own_namespace
    }
    let mut failures = Vec::new();
    while let Some(ended) = playing.join_next_with_id().await {
        if let Err(error) = ended {
            failures.push(format!("{} failed: {error}", names[&error.id()]));
        }
    }
    let quiet = nothing_is_written_at_rest(room("rest").await, operator);
    failures.extend(quiet.await.err());
    failures
}

pub(super) fn plain() -> serde_json::Value {
    json!({ "value": "https://hooks.example.com/a" })
}

async fn objects_are_made_and_restored(room: Room) {
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
    let name = "shop-listener";
    assert!(room.get::<ServiceAccount>(name).await.is_some());
    assert!(room.get::<RoleBinding>(name).await.is_some());
    assert!(room.get::<Service>(name).await.is_some());
    assert!(room.get::<NetworkPolicy>(name).await.is_some());
    let bundle: Secret = room.get("shop-listener-bundle").await.unwrap();
    let text = bundle.data.unwrap().remove("bundle.yaml").unwrap().0;
    assert!(String::from_utf8(text).unwrap().contains("\"orders\""));
    let listener: ObserverListener = room.get("shop").await.unwrap();
    let hash = listener.status.unwrap().bundle;
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

async fn a_missing_secret_shows_and_heals(room: Room) {
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

async fn an_observer_is_refused_alone(room: Room) {
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
        .observer_says("lost", ["Resolved", "False", "SecretMissing"])
        .await;
    assert!(said.contains("`hook`"), "{said}");
    room.listener_says("shop", ["Degraded", "True", "ObserversRefused"])
        .await;
    room.secret("hook", "url", "ftp://hooks.example.com/a")
        .await;
    let said = room
        .observer_says("lost", ["Accepted", "False", "Invalid"])
        .await;
    assert!(said.contains("spec") && !said.contains("ftp"), "{said}");
    room.secret("hook", "url", "https://hooks.example.com/b")
        .await;
    room.observer_says("lost", ["Resolved", "True", "Resolved"])
        .await;
    room.listener_says("shop", ["Degraded", "False", "NothingRefused"])
        .await;
    room.edit::<Observer>("good", json!({ "spec": { "state": "Suspended" } }))
        .await;
    room.observer_says("good", ["Programmed", "False", "Suspended"])
        .await;
    room.edit::<Observer>("lost", json!({ "metadata": { "labels": { "app": null } } }))
        .await;
    room.observer_says("lost", ["Programmed", "False", "NotSelected"])
        .await;
    assert!(events(&room, "SecretMissing").await > 0);
}

async fn of_one_identity_the_younger_is_refused(room: Room) {
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

async fn a_listener_goes_with_all_it_had(room: Room) {
    room.database().await;
    room.listener("shop", json!({})).await;
    until("there is a Deployment", async || {
        room.get::<Deployment>("shop-listener").await.is_some()
    })
    .await;
    let listener: ObserverListener = room.get("shop").await.unwrap();
    let finalizers = listener.metadata.finalizers.unwrap_or_default();
    assert_eq!(finalizers, ["observers.fraiseql.dev/rows"]);
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
    room.gone::<Job>("shop-listener-forget").await;
    assert!(room.get::<Lease>("own").await.is_some());
    assert!(events(&room, "RowsRemoved").await > 0);
}

/// What the Job's pods say is told, and the Job is given up after a few of them. What it needs is made
/// anew where somebody has deleted it, as a deletion in the foreground does.
async fn rows_that_stay_are_told_of(room: Room) {
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
    assert!(events(&room, "RowsKept").await > 0);
    let events = api.list(&ListParams::default()).await.unwrap();
    let kept = events
        .into_iter()
        .find(|event| event.reason.as_deref() == Some("RowsKept"));
    let note = kept.unwrap().message.unwrap();
    let remedy = format!("observer.forget('{}/shop')", room.namespace);
    assert!(
        note.contains("not removed: cannot reach Postgres") && note.contains(&remedy),
        "{note}"
    );
}

/// A Job that is somebody else's is left as it is.
async fn rows_stay_where_the_name_of_the_job_is_taken(room: Room) {
    room.database().await;
    let name = "shop-listener-forget";
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
    assert!(events(&room, "RowsKept").await > 0);
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

async fn a_namespace_goes_at_once(room: Room) {
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

async fn pods_are_heard(room: Room) {
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
        report.problem = Some(Trouble {
            reason: "DatabaseUnreachable".to_owned(),
            message: "cannot reach it".to_owned(),
        });
    });
    room.listener_says("shop", ["Ready", "False", "DatabaseUnreachable"])
        .await;
    let bundle = async || {
        let listener: ObserverListener = room.get("shop").await.unwrap();
        listener.status.unwrap().bundle.unwrap()
    };
    let first = bundle().await;
    // A shard that nobody has taken up yet, and then one that does not get on.
    told.works(&first);
    told.change(|report| drop(report.shards.pop()));
    let said = room
        .listener_says("shop", ["Ready", "False", "Starting"])
        .await;
    assert_eq!(said, "1 of 8 shards are not taken up yet");
    told.works(&first);
    told.change(|report| {
        report.stalled = vec![StalledShard {
            shard: 3,
            reason: RECEIVER_FAILING.to_owned(),
            message: "hooks.example.com answers 500".to_owned(),
            since: "2026-01-01T00:00:00Z".to_owned(),
        }];
    });
    let said = room
        .listener_says("shop", ["Stalled", "True", RECEIVER_FAILING])
        .await;
    assert_eq!(
        said,
        format!("shard 3 (pod {pod}): hooks.example.com answers 500")
    );
    told.works(&first);
    room.listener_says("shop", ["Stalled", "False", "GettingOn"])
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
        report.refused = vec![Refusal {
            observer: format!("{}/more", room.namespace),
            path: "spec.when".to_owned(),
            message: "has no such field".to_owned(),
        }];
    });
    let said = room
        .observer_says("more", ["Accepted", "False", "Invalid"])
        .await;
    assert_eq!(said, "spec.when: has no such field");
    room.listener_says("shop", ["Degraded", "True", "ObserversRefused"])
        .await;
    room.listener_says("shop", ["Ready", "True", "Delivering"])
        .await;
    assert!(events(&room, "Reloaded").await > 0);
}

/// Rules of the definitions that only an API server goes by.
async fn variables_of_the_operator_are_refused(room: Room) {
    room.database().await;
    let api: Api<ObserverListener> = room.api();
    let with = |env: serde_json::Value| -> ObserverListener {
        let source = json!({ "changeLog": { "databaseUrl": { "value": "postgres://db/shop" } } });
        serde_json::from_value(json!({
            "apiVersion": "observers.fraiseql.dev/v1alpha1", "kind": "ObserverListener",
            "metadata": { "name": "shop" },
            "spec": { "source": source, "replicas": 0, "podTemplate": {
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

async fn what_the_api_server_refuses_is_told(room: Room) {
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

/// What was there before a listener, as somebody made it, with the operator's label or without.
async fn what_others_made_is_left_as_it_is(room: Room) {
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

async fn what_is_given_away_is_left_as_it_is(room: Room) {
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

async fn an_identity_is_of_its_own_namespace(room: Room) {
    room.database().await;
    let identity = json!({ "identity": "elsewhere/shop", "deletionPolicy": "Retain" });
    room.listener("first", identity).await;
    let said = room
        .listener_says("first", ["Ready", "False", "Invalid"])
        .await;
    assert!(said.contains("spec.identity"), "{said}");
}

async fn another_namespace_must_allow_it(room: Room) {
    let other = Room::new(room.client.clone(), "crossed").await;
    room.database().await;
    let hidden = "https://hooks.example.com/hidden";
    other.secret("hook", "url", hidden).await;
    let labels = json!({ "metadata": { "labels": { "app": "crossing" } } });
    let hook = json!({ "secretKeyRef": { "name": "hook", "key": "url" } });
    other.observer("theirs", hook).await;
    other.edit::<Observer>("theirs", labels).await;
    let crossing = json!({
        "observerNamespaces": { "from": "All" },
        "observerSelector": { "matchLabels": { "app": "crossing" } },
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
    let bundle = async || {
        let bundle: Secret = room.get("shop-listener-bundle").await.unwrap();
        String::from_utf8(bundle.data.unwrap().remove("bundle.yaml").unwrap().0).unwrap()
    };
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

async fn events(room: &Room, reason: &str) -> usize {
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
