//! Numbers of pods that the operator decides.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::never_null;
use crate::duration::HumanDuration;

/// How the operator decides the number of pods, by how far the listener is behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(extend("x-kubernetes-validations" = [
    {
        "rule": "self.minReplicas <= self.maxReplicas",
        "message": "maxReplicas must be at least minReplicas",
        "fieldPath": ".maxReplicas",
    },
]))]
pub struct Autoscaling {
    /// Fewest pods, 1 to 256; default 1.
    #[serde(default = "default_min_replicas")]
    #[schemars(range(min = 1, max = 256))]
    pub min_replicas: i32,
    /// Most pods, 1 to 256, and at most as many as there are shards: a pod without a shard has nothing to do.
    #[schemars(range(min = 1, max = 256))]
    pub max_replicas: i32,
    /// Age of the oldest unfinished event beyond which there are too few pods, 1s to 1h; default 10s. While the
    /// oldest event waits for a receiver that fails or for the database, pods are not added, as they would not help.
    #[serde(default = "default_target_lag")]
    pub target_lag: HumanDuration,
}

/// What the operator has decided.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(transform = never_null)]
pub struct AutoscalingStatus {
    /// Number of pods that there should be.
    #[serde(default)]
    pub desired_replicas: i32,
    /// When that number changed last, in RFC 3339.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_scale_time: Option<String>,
}

fn default_min_replicas() -> i32 {
    1
}

fn default_target_lag() -> HumanDuration {
    HumanDuration::from_secs(10)
}
