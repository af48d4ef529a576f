//! Who may reach a listener's pods: anyone, at their one port.
//!
//! Outgoing connections are left open here: the listener itself vets every address it dials.

use k8s_openapi::api::networking::v1::{
    NetworkPolicy, NetworkPolicyIngressRule, NetworkPolicyPort, NetworkPolicySpec,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::Fleet;
use super::deployment::PORT_NAME;

/// Lets in what goes to the port with health, metrics and status.
#[must_use]
pub fn build(fleet: &Fleet) -> NetworkPolicy {
    NetworkPolicy {
        metadata: fleet.metadata(fleet.object_name()),
        spec: Some(NetworkPolicySpec {
            pod_selector: Some(LabelSelector {
                match_labels: Some(fleet.all_pods()),
                match_expressions: None,
            }),
            policy_types: Some(vec!["Ingress".to_owned()]),
            ingress: Some(vec![NetworkPolicyIngressRule {
                from: None,
                ports: Some(vec![NetworkPolicyPort {
                    port: Some(IntOrString::String(PORT_NAME.to_owned())),
                    protocol: Some("TCP".to_owned()),
                    end_port: None,
                }]),
            }]),
            egress: None,
        }),
    }
}
