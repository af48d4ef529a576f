//! What the operator tells of each resource.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{conditions, never_null};

/// What the operator saw last of a listener.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(transform = never_null)]
pub struct ObserverListenerStatus {
    /// Generation of the resource that the rest speaks of.
    #[serde(default)]
    pub observed_generation: i64,
    /// Number of pods that exist.
    #[serde(default)]
    pub replicas: i32,
    /// Number of pods that are ready to work, whether or not a shard is theirs now.
    #[serde(default)]
    pub ready_replicas: i32,
    /// Pods for jobs alone; absent where none are asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub workers: Option<WorkerCounts>,
    /// Selects the pods, for the scale subresource.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub selector: Option<String>,
    /// Numbers of observers.
    #[serde(default)]
    pub observers: ObserverCounts,
    /// Who works on which shard.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256))]
    pub shards: Vec<ShardStatus>,
    /// Age of the oldest event that is not over, such as `0s` or `2m`, as of a few seconds ago and
    /// to within 5 s or a quarter.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lag: Option<String>,
    /// Events committed and not read, an upper bound, as of a few seconds ago.
    #[serde(default)]
    pub backlog: i64,
    /// Receivers that a pod leaves alone for the moment, as they fail: their circuit breakers are
    /// open or half open. What is to be delivered to them waits. Scheme, host and port of 32 at most.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    pub open_circuit_breakers: Vec<String>,
    /// SHA-256 of the bundle that the pods should run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub config_hash: Option<String>,
    /// `Ready`: events are delivered. `Progressing`: a change is on its way to the pods.
    /// `Degraded`: a part does not run. `Stalled`: there is work in a shard, and it does not get
    /// on; the message names the shards, their pods and why.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "conditions")]
    pub conditions: Vec<Condition>,
}

/// How many pods for jobs alone a listener has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct WorkerCounts {
    /// Number of them that exist.
    #[serde(default)]
    pub replicas: i32,
    /// Number of them that are ready to work.
    #[serde(default)]
    pub ready_replicas: i32,
}

/// How many observers a listener has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ObserverCounts {
    /// Selected.
    #[serde(default)]
    pub selected: i32,
    /// At work in every pod that works.
    #[serde(default)]
    pub programmed: i32,
    /// Rejected; their own status says why.
    #[serde(default)]
    pub rejected: i32,
    /// At work, but the database does not log what they watch, or a column that they look at; their
    /// own status says what.
    #[serde(default)]
    pub untracked: i32,
}

/// Who works on a shard.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ShardStatus {
    /// Number of the shard.
    pub shard: i32,
    /// The pod that works on it.
    pub owner: String,
    /// Grows with each change of hands; writes that carry an older one are refused.
    pub epoch: i64,
    /// Since when the pod owns it.
    pub since: String,
    /// Age of the oldest event of the shard that is not over, likewise.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lag: Option<String>,
}

/// What the operator saw last of an observer.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ObserverStatus {
    /// Generation of the resource that the rest speaks of.
    #[serde(default)]
    pub observed_generation: i64,
    /// The listeners that select it, as `namespace/name`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub listeners: Vec<String>,
    /// `Accepted`: it is right in itself. `Resolved`: the Secrets that it names are there.
    /// `Programmed`: every listener that selects it runs it. `Tracked`: the database logs what it
    /// watches, with the columns that it looks at.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "conditions")]
    pub conditions: Vec<Condition>,
}
