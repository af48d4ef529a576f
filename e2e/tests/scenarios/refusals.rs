//! What the API server refuses before anything of ours sees it: every row is a mistake, and the
//! field that the message must name.

use anyhow::{Result, ensure};
use crds::v1alpha1::{Observer, ObserverListener};
use kube::api::{Patch, PatchParams, ValidationDirective};
use kube::{Api, ResourceExt};
use serde_json::{Map, Value, json};

use crate::support::figures::figure;
use crate::support::room::{MANAGER, Room, scenario};
use crate::support::{installation, resources};

/// A mistake, as YAML that is laid over a good spec, and what the message must hold.
type Row = (&'static str, &'static str);

const LISTENER: [Row; 37] = [
    ("shards: 0", "spec.shards"),
    ("shards: 257", "spec.shards"),
    ("shards: many", "spec.shards"),
    ("replicas: -1", "spec.replicas"),
    ("replicas: 257", "spec.replicas"),
    ("shard: 8", ".spec.shard: field not declared in schema"),
    ("database: null", "spec.database"),
    ("source: {}", "exactly one source, such as triggers: {}"),
    (
        "source: {changeLog: {}}",
        ".spec.source.changeLog: field not declared in schema",
    ),
    ("database: {url: null}", "spec.database.url"),
    (
        "database: {url: {value: 'postgres://x/y'}}",
        "exactly one of value and secretKeyRef",
    ),
    ("database: {url: {secretKeyRef: null}}", "spec.database.url"),
    (
        "database: {url: {secretKeyRef: {key: null}}}",
        "spec.database.url.secretKeyRef.key",
    ),
    ("startAt: Then", "spec.startAt"),
    ("database: {retention: soon}", "spec.database.retention"),
    (
        "database: {maxPollInterval: 8 ms}",
        "spec.database.maxPollInterval",
    ),
    ("identity: Shop", "spec.identity"),
    ("identity: ''", "spec.identity"),
    (
        "observerNamespaces: {from: Selector}",
        "spec.observerNamespaces",
    ),
    (
        "observerNamespaces: {from: Same, selector: {}}",
        "spec.observerNamespaces",
    ),
    (
        "observerNamespaces: {from: Everywhere}",
        "spec.observerNamespaces.from",
    ),
    (
        "lease: {duration: 5s, renewDeadline: 10s}",
        "spec.lease.duration",
    ),
    (
        "lease: {renewDeadline: 2s, retryPeriod: 2s}",
        "spec.lease.renewDeadline",
    ),
    ("checkpoint: {interval: 250}", "spec.checkpoint.interval"),
    (
        "delivery: {maxConcurrency: 0}",
        "spec.delivery.maxConcurrency",
    ),
    (
        "delivery: {drainTimeout: a minute}",
        "spec.delivery.drainTimeout",
    ),
    ("deletionPolicy: Forget", "spec.deletionPolicy"),
    ("egress: {allow: 10.0.0.0/8}", "spec.egress.allow"),
    (
        "observerSelector: {matchExpressions: [{key: app, operator: Like}]}",
        "spec.observerSelector.matchExpressions[0].operator",
    ),
    ("podTemplate: {image: ''}", "spec.podTemplate.image"),
    ("search: {}", "exactly one of postgres and elasticsearch"),
    (
        "search: {postgres: {}, elasticsearch: {url: {value: 'https://x'}}}",
        "exactly one of postgres and elasticsearch",
    ),
    (
        "search: {postgres: {}, redact: [people.card]}",
        "columns with their table as schema.table.column",
    ),
    (
        "search: {elasticsearch: {url: {value: 'https://x'}, index: Shop}}",
        "spec.search.elasticsearch.index",
    ),
    (
        "search: {elasticsearch: {url: {value: 'https://x'}, index: logs-shop}}",
        "keeps for data streams of its own",
    ),
    (
        "search: {elasticsearch: {url: {value: 'https://x'}, username: {value: u}}}",
        "give username and password, or neither",
    ),
    (
        "search: {elasticsearch: {url: {value: 'https://x'}, username: {value: u}, password: {value: p}, apiKey: {value: a}}}",
        "apiKey, not both",
    ),
];

const OBSERVER: [Row; 24] = [
    ("events: null", "spec.events"),
    ("events: {entity: ''}", "spec.events.entity"),
    ("events: {operations: []}", "spec.events.operations"),
    (
        "events: {operations: [insert]}",
        "spec.events.operations[0]",
    ),
    (
        "events: {table: orders}",
        ".spec.events.table: field not declared in schema",
    ),
    ("when: ''", "spec.when"),
    ("when: true", "spec.when"),
    ("tenant: ''", "spec.tenant"),
    ("suspend: Paused", "spec.suspend"),
    ("actions: []", "spec.actions"),
    ("actions: null", "spec.actions"),
    ("actions: [{name: a}]", "spec.actions[0]"),
    (
        "actions: [{name: a, log: {}, webhook: {url: {value: 'http://x'}}}]",
        "exactly one thing to do, such as webhook or log",
    ),
    ("actions: [{name: '', log: {}}]", "spec.actions[0].name"),
    ("actions: [{log: {}}]", "omits all key fields [\"name\"]"),
    (
        "actions: [{name: a, log: {}}, {name: a, log: {}}]",
        "duplicate entries for key [name=\"a\"]",
    ),
    (
        "actions: [{name: a, log: {level: Error}}]",
        "spec.actions[0].log.level",
    ),
    (
        "actions: [{name: a, log: {}, timeout: 10}]",
        ".spec.actions[name=\"a\"].timeout: expected string",
    ),
    (
        "actions: [{name: a, log: {}, retry: {attempts: 0}}]",
        "spec.actions[0].retry.attempts",
    ),
    (
        "actions: [{name: a, log: {}, retry: {initialBackoff: 1 s}}]",
        "spec.actions[0].retry.initialBackoff",
    ),
    (
        "actions: [{name: a, webhook: {}}]",
        "spec.actions[0].webhook.url",
    ),
    (
        "actions: [{name: a, webhook: {url: {}}}]",
        "spec.actions[0].webhook.url",
    ),
    (
        "actions: [{name: a, webhook: {url: {value: 'http://x'}, method: GET}}]",
        "spec.actions[0].webhook.method",
    ),
    (
        "actions: [{name: a, webhook: {url: {value: 'http://x'}, signingSecret: {value: a}, signingSecrets: [{value: b}]}}]",
        "signingSecret or signingSecrets",
    ),
];

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a cluster: make e2e"]
async fn control_plane_refuses_what_is_wrong_and_names_the_field() {
    scenario("refusals", async |room| {
        installation::defined(&room.cluster).await?;
        let listener = resources::listener("shop", 1);
        let observer = resources::observer("main", "http://sink");
        try_out::<ObserverListener>(room, &listener).await?;
        try_out::<Observer>(room, &observer).await?;
        let mut wrong = Vec::new();
        for row in LISTENER {
            wrong.extend(check::<ObserverListener>(room, &listener, row).await);
        }
        for row in OBSERVER {
            wrong.extend(check::<Observer>(room, &observer, row).await);
        }
        let mut long = listener.clone();
        long["metadata"]["name"] = "a".repeat(47).into();
        wrong.extend(said::<ObserverListener>(room, &long, "a long name", "46 characters").await);
        figure(&format!(
            "refused by the API server: {} of {} mistakes",
            LISTENER.len() + OBSERVER.len() + 1 - wrong.len(),
            LISTENER.len() + OBSERVER.len() + 1
        ));
        ensure!(wrong.is_empty(), "\n{}", wrong.join("\n"));
        Ok(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a cluster: make e2e"]
async fn control_plane_refuses_a_new_identity() {
    scenario("identity", async |room| {
        installation::defined(&room.cluster).await?;
        for (before, after) in [
            (Some("a/b"), Some("a/c")),
            (Some("a/b"), None),
            (None, Some("x")),
        ] {
            let mut listener = resources::listener("shop", 0);
            if let Some(before) = before {
                listener["spec"]["identity"] = before.into();
            }
            let api = room.api::<ObserverListener>();
            let made = room.apply::<ObserverListener>(&listener).await?;
            let patch = json!({"spec": {"identity": after}});
            let changed = api
                .patch("shop", &PatchParams::default(), &Patch::Merge(patch))
                .await;
            let message = changed.map_or_else(|error| error.to_string(), |taken| taken.name_any());
            ensure!(
                message.contains("identity"),
                "the change from {before:?} to {after:?} is not refused: {message}"
            );
            room.delete::<ObserverListener>("shop").await?;
            // An operator's finalizer is no matter here.
            if !made.finalizers().is_empty() {
                room.merge::<ObserverListener>("shop", json!({"metadata": {"finalizers": null}}))
                    .await?;
            }
        }
        Ok(())
    })
    .await;
}

async fn check<K>(room: &Room, good: &Value, (mistake, expected): Row) -> Option<String>
where
    K: kube::Resource<Scope = kube::core::NamespaceResourceScope, DynamicType = ()>
        + Clone
        + std::fmt::Debug
        + serde::de::DeserializeOwned,
{
    let patch: Value = serde_yaml_ng::from_str(mistake).unwrap();
    let mut bad = good.clone();
    lay_over(&mut bad["spec"], &patch);
    said::<K>(room, &bad, mistake, expected).await
}

/// What is wrong with the answer to a mistake, if anything.
async fn said<K>(room: &Room, bad: &Value, mistake: &str, expected: &str) -> Option<String>
where
    K: kube::Resource<Scope = kube::core::NamespaceResourceScope, DynamicType = ()>
        + Clone
        + std::fmt::Debug
        + serde::de::DeserializeOwned,
{
    match try_out::<K>(room, bad).await {
        Ok(()) => Some(format!("`{mistake}` is taken")),
        Err(error) => {
            let message = format!("{error:#}");
            (!message.contains(expected))
                .then(|| format!("`{mistake}`: no {expected} in: {message}"))
        }
    }
}

async fn try_out<K>(room: &Room, value: &Value) -> Result<()>
where
    K: kube::Resource<Scope = kube::core::NamespaceResourceScope, DynamicType = ()>
        + Clone
        + std::fmt::Debug
        + serde::de::DeserializeOwned,
{
    let mut value = value.clone();
    value["apiVersion"] = K::api_version(&()).into();
    value["kind"] = K::kind(&()).into();
    let name = value["metadata"]["name"]
        .as_str()
        .unwrap_or_default()
        .to_owned();
    let mut how = PatchParams::apply(MANAGER).dry_run();
    how.field_validation = Some(ValidationDirective::Strict);
    let api: Api<K> = room.api();
    api.patch(&name, &how, &Patch::Apply(value)).await?;
    Ok(())
}

/// As a merge patch: what is null goes, mappings merge, all else is replaced.
fn lay_over(base: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *base = patch.clone();
        return;
    };
    if !base.is_object() {
        *base = Value::Object(Map::new());
    }
    for (name, value) in patch {
        if value.is_null() {
            if let Some(base) = base.as_object_mut() {
                base.remove(name);
            }
        } else {
            lay_over(&mut base[name], value);
        }
    }
}
