//! The `PodDisruptionBudget`s of a listener's pods and of its workers.

use k8s_openapi::api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetSpec};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::{ListenerResources, PodRole};

/// Builds a budget of one eviction at a time, so that others take over its shards or jobs. A single pod
/// has none: it would block the drain of a node and protect nothing.
#[must_use]
pub fn build(resources: &ListenerResources, role: PodRole) -> Option<PodDisruptionBudget> {
    (resources.pods(role) > 1).then(|| PodDisruptionBudget {
        metadata: resources.role_metadata(role),
        spec: Some(PodDisruptionBudgetSpec {
            max_unavailable: Some(IntOrString::Int(1)),
            selector: Some(resources.selector(role)),
            // A pod that does not get ready must not keep its node from being drained.
            unhealthy_pod_eviction_policy: Some("AlwaysAllow".to_owned()),
            ..PodDisruptionBudgetSpec::default()
        }),
        ..PodDisruptionBudget::default()
    })
}
