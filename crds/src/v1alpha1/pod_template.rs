//! What users may add to the pods of a listener.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    Affinity, EnvVar, LocalObjectReference, ResourceRequirements, Toleration,
    TopologySpreadConstraint,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::never_null;

/// What the name of a priority class looks like.
const PRIORITY_CLASS: &str = "^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$";

/// What the names of variables begin with that are the listener's own.
pub(crate) const OWN_PREFIX: &str = "OBSERVER_";

/// Variables by which a pod knows itself.
pub(crate) const OWN_NAMES: [&str; 4] = ["POD_NAME", "POD_NAMESPACE", "POD_UID", "POD_IP"];

/// What the pods of a listener have beyond what they need. A change of it rolls the pods; what a
/// pod needs to do its work cannot be taken away by it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(transform = never_null)]
pub struct PodTemplate {
    /// Image of the listener. Left out, it is that of the operator.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512))]
    pub image: Option<String>,
    /// Secrets for pulling the image.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub image_pull_secrets: Vec<LocalObjectReference>,
    /// Labels to add to the pods.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 64))]
    pub labels: BTreeMap<String, String>,
    /// Annotations to add to the pods.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 64))]
    pub annotations: BTreeMap<String, String>,
    /// Requests and limits of the container. Left out, it requests 50m of CPU and 64Mi of memory
    /// and is limited to 256Mi of memory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resources: Option<ResourceRequirements>,
    /// Environment variables to add to the container, each name once. Names that begin with
    /// `OBSERVER_`, and `POD_NAME`, `POD_NAMESPACE`, `POD_UID` and `POD_IP`, are the operator's.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    #[schemars(extend(
        "x-kubernetes-list-type" = "map",
        "x-kubernetes-list-map-keys" = ["name"],
        "x-kubernetes-validations" = [
            {
                "rule": "self.all(one, !one.name.startsWith('OBSERVER_') && !(one.name in ['POD_NAME', 'POD_NAMESPACE', 'POD_UID', 'POD_IP']))",
                "message": "names that begin with OBSERVER_, and POD_NAME, POD_NAMESPACE, POD_UID and POD_IP, are set by the operator",
            },
            {
                "rule": "self.all(one, !(has(one.value) && has(one.valueFrom)))",
                "message": "give value or valueFrom, not both",
            },
        ],
    ))]
    pub env: Vec<EnvVar>,
    /// Labels of the nodes that the pods may run on.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 64))]
    pub node_selector: BTreeMap<String, String>,
    /// Rules for which nodes the pods prefer or need.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub affinity: Option<Affinity>,
    /// Taints of nodes that the pods bear.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    pub tolerations: Vec<Toleration>,
    /// How the pods spread over nodes and zones.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub topology_spread_constraints: Vec<TopologySpreadConstraint>,
    /// Priority class of the pods, which must be there: their priority when nodes are full.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253), regex(pattern = PRIORITY_CLASS))]
    pub priority_class_name: Option<String>,
}
