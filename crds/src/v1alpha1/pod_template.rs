//! Settings of a listener's pods.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    Affinity, EnvVar, LocalObjectReference, ResourceRequirements, Toleration,
    TopologySpreadConstraint,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::never_null;

/// Pattern of the name of a priority class.
const PRIORITY_CLASS: &str = "^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$";

/// Prefix of the environment variables that configure the listener.
pub(crate) const OWN_PREFIX: &str = "OBSERVER_";

/// Environment variables that tell a pod its own identity.
pub(crate) const OWN_NAMES: [&str; 4] = ["POD_NAME", "POD_NAMESPACE", "POD_UID", "POD_IP"];

/// Settings of a listener's pods. A change rolls the pods. What a pod needs for its work cannot be
/// removed here.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(transform = never_null)]
pub struct PodTemplate {
    /// Container image of the listener, 1 to 512 characters; default is the operator's image.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512))]
    pub image: Option<String>,
    /// Secrets for pulling the image, up to 16.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub image_pull_secrets: Vec<LocalObjectReference>,
    /// Labels to add to the pods, up to 64.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 64))]
    pub labels: BTreeMap<String, String>,
    /// Annotations to add to the pods, up to 64.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 64))]
    pub annotations: BTreeMap<String, String>,
    /// Resource requests and limits of the container; default is requests of 50m of CPU and 64Mi of
    /// memory, and a limit of 256Mi of memory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resources: Option<ResourceRequirements>,
    /// Environment variables to add to the container, up to 64 with unique names. Names that begin
    /// with `OBSERVER_`, and `POD_NAME`, `POD_NAMESPACE`, `POD_UID` and `POD_IP`, are set by the
    /// operator.
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
    /// Labels of the nodes that the pods may run on, up to 64.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 64))]
    pub node_selector: BTreeMap<String, String>,
    /// Affinity and anti-affinity rules of the pods.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub affinity: Option<Affinity>,
    /// Node taints that the pods tolerate, up to 32.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    pub tolerations: Vec<Toleration>,
    /// Rules for spreading the pods over nodes and zones, up to 16. Left out, they are spread over nodes as
    /// far as possible.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub topology_spread_constraints: Vec<TopologySpreadConstraint>,
    /// Name of an existing priority class for the pods, 1 to 253 characters.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253), regex(pattern = PRIORITY_CLASS))]
    pub priority_class_name: Option<String>,
}
