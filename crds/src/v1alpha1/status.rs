//! Status of the resources, written by the operator.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::autoscaling::AutoscalingStatus;
use super::{conditions, never_null};

/// Observed state of a listener.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(transform = never_null)]
pub struct ObserverListenerStatus {
    /// Generation of the resource that this status describes.
    #[serde(default)]
    pub observed_generation: i64,
    /// Number of pods that exist.
    #[serde(default)]
    pub replicas: i32,
    /// Number of pods that are ready, whether or not they own a shard.
    #[serde(default)]
    pub ready_replicas: i32,
    /// What `spec.autoscaling` has led to; left out without it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub autoscaling: Option<AutoscalingStatus>,
    /// Dedicated worker pods; left out if none are configured.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub workers: Option<WorkerCounts>,
    /// Label selector of the pods, for the scale subresource.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub selector: Option<String>,
    /// Numbers of observers.
    #[serde(default)]
    pub observers: ObserverCounts,
    /// Owners of the shards.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256))]
    pub shards: Vec<ShardStatus>,
    /// Age of the oldest unfinished event, such as `0s` or `2m`. It is a few seconds old, and exact
    /// to 5s or a quarter of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lag: Option<String>,
    /// Number of committed events that are not read yet, an upper bound that is a few seconds old.
    #[serde(default)]
    pub backlog: i64,
    /// Endpoints whose circuit breaker is open or half open in some pod, as scheme, host and port, at most
    /// 32. Deliveries to them wait.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    pub open_circuit_breakers: Vec<String>,
    /// SHA-256 of the configuration that the pods should run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub config_hash: Option<String>,
    /// Conditions of the listener. `Ready`: events are delivered. `Progressing`: a change is being
    /// rolled out to the pods. `Degraded`: some part does not run. `DeliveryStalled`: a shard has work
    /// waiting and makes no progress; the message names the shards, their pods and the cause.
    /// `Reconciling` and `Stalled` are for kstatus, and are there only while they are true: a change is on its
    /// way, or the resource itself is wrong.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "conditions")]
    pub conditions: Vec<Condition>,
}

/// Number of dedicated worker pods of a listener.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct WorkerCounts {
    /// Number of worker pods that exist.
    #[serde(default)]
    pub replicas: i32,
    /// Number of worker pods that are ready.
    #[serde(default)]
    pub ready_replicas: i32,
}

/// Numbers of observers of a listener.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ObserverCounts {
    /// Number of observers that the listener selects.
    #[serde(default)]
    pub selected: i32,
    /// Number of observers that every working pod runs.
    #[serde(default)]
    pub programmed: i32,
    /// Number of observers that were rejected; their own status says why.
    #[serde(default)]
    pub rejected: i32,
    /// At work, but the database does not log what they watch, or a column that they look at; their
    /// own status says what.
    #[serde(default)]
    pub untracked: i32,
}

/// Owner of a shard.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ShardStatus {
    /// Number of the shard.
    pub shard: i32,
    /// Name of the pod that owns the shard.
    pub owner: String,
    /// Fencing number, which grows with each change of owner; writes with an older one are
    /// rejected.
    pub epoch: i64,
    /// Time since when the pod owns the shard.
    pub since: String,
    /// Age of the oldest unfinished event of the shard, as exact as `status.lag`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lag: Option<String>,
}

/// Observed state of an observer.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ObserverStatus {
    /// Generation of the resource that this status describes.
    #[serde(default)]
    pub observed_generation: i64,
    /// Listeners that select the observer, as `namespace/name`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub listeners: Vec<String>,
    /// Conditions of the observer. `Accepted`: the resource is valid. `ResolvedRefs`: the Secrets that
    /// it refers to exist. `Programmed`: every listener that selects it runs it. `Tracked`: the
    /// database logs what it watches, with the columns that it looks at. `Reconciling` and `Stalled` are for
    /// kstatus, and are there only while they are true: it does not run yet, or it is itself wrong.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "conditions")]
    pub conditions: Vec<Condition>,
}
