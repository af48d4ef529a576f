//! Resources as the scenarios write them, and what their status says.

use anyhow::{Context, Result, ensure};
use crds::v1alpha1::{Observer, ObserverListener};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use serde_json::{Value, json};

/// A pod that meets the restricted standard, with its volumes.
pub(crate) fn pod(name: &str, container: &Value, volumes: &Value) -> Value {
    json!({"metadata": {"name": name, "labels": {"app": name}}, "spec": pod_spec(container, volumes)})
}

/// What is in such a pod.
pub(crate) fn pod_spec(container: &Value, volumes: &Value) -> Value {
    let mut container = container.clone();
    container["securityContext"] = json!({
        "allowPrivilegeEscalation": false,
        "capabilities": {"drop": ["ALL"]},
    });
    json!({
        "containers": [container],
        "volumes": volumes,
        "automountServiceAccountToken": false,
        "enableServiceLinks": false,
        "terminationGracePeriodSeconds": 5,
        "securityContext": {
            "runAsNonRoot": true,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
    })
}

/// A Service of the pod with this name.
pub(crate) fn service(name: &str, port: u16) -> Value {
    json!({
        "metadata": {"name": name},
        "spec": {"selector": {"app": name}, "ports": [{"port": port, "targetPort": port}]},
    })
}

/// A listener of the database that the Secret `db` names.
pub(crate) fn listener(name: &str, replicas: i32) -> Value {
    json!({
        "metadata": {"name": name},
        "spec": {
            "replicas": replicas,
            "database": {"url": {"secretKeyRef": {"name": "db", "key": "url"}},
            },
            "egress": {"allow": ["*.svc.cluster.local"]},
        },
    })
}

/// An observer of updates of the counters, which calls a path of the sink, signed.
pub(crate) fn observer(name: &str, url: &str) -> Value {
    json!({
        "metadata": {"name": name},
        "spec": {
            "events": {"entity": "public.kv", "operations": ["Update"]},
            "actions": [{
                "name": "call",
                "webhook": {
                    "url": {"value": url},
                    "signingSecret": {"secretKeyRef": {"name": "hooks", "key": "signing-secret"}},
                },
                "retry": {"attempts": 100, "initialBackoff": "100ms", "maxBackoff": "2s"},
            }],
        },
    })
}

/// What has conditions in its status.
pub(crate) trait Conditions {
    /// The conditions, and the generation that they speak of.
    fn conditions(&self) -> (&[Condition], i64);
    /// The resource's generation.
    fn generation(&self) -> i64;
}

impl Conditions for ObserverListener {
    fn conditions(&self) -> (&[Condition], i64) {
        self.status.as_ref().map_or((&[], 0), |status| {
            (&status.conditions, status.observed_generation)
        })
    }

    fn generation(&self) -> i64 {
        self.metadata.generation.unwrap_or_default()
    }
}

impl Conditions for Observer {
    fn conditions(&self) -> (&[Condition], i64) {
        self.status.as_ref().map_or((&[], 0), |status| {
            (&status.conditions, status.observed_generation)
        })
    }

    fn generation(&self) -> i64 {
        self.metadata.generation.unwrap_or_default()
    }
}

/// The condition of a type, if the status speaks of the resource as it is now and the condition
/// has that status.
pub(crate) fn condition(of: &impl Conditions, kind: &str, status: &str) -> Result<Condition> {
    let (conditions, observed) = of.conditions();
    let all: Vec<String> = conditions
        .iter()
        .map(|c| format!("{}={} {}: {}", c.type_, c.status, c.reason, c.message))
        .collect();
    ensure!(
        observed == of.generation(),
        "the status speaks of generation {observed}, not of {}: {all:?}",
        of.generation()
    );
    let found = conditions
        .iter()
        .find(|c| c.type_ == kind && c.status == status);
    found
        .cloned()
        .with_context(|| format!("there is no {kind}={status} in {all:?}"))
}
