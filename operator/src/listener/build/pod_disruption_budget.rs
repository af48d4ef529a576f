//! How many of a listener's pods, or of its pods for jobs, may be evicted at once.

use k8s_openapi::api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetSpec};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::{Fleet, Part};

/// One at a time, so that others are there to take up its shards or jobs. A single pod has no budget: it
/// would keep nodes from being drained and protect nothing.
#[must_use]
pub fn build(fleet: &Fleet, part: Part) -> Option<PodDisruptionBudget> {
    (fleet.pods(part) > 1).then(|| PodDisruptionBudget {
        metadata: fleet.part_metadata(part),
        spec: Some(PodDisruptionBudgetSpec {
            max_unavailable: Some(IntOrString::Int(1)),
            selector: Some(fleet.selector(part)),
            // A pod that does not get ready must not keep its node from being drained.
            unhealthy_pod_eviction_policy: Some("AlwaysAllow".to_owned()),
            ..PodDisruptionBudgetSpec::default()
        }),
        ..PodDisruptionBudget::default()
    })
}
