//! The `NetworkPolicy` of a listener's pods. It admits the operator, which polls their status, and
//! scrapers of metrics, to the port of both alone. Users admit others, such as clients of the HTTP API, by
//! policies of their own.
//!
//! Egress is not restricted here: the listener checks every address that it dials.

use std::collections::BTreeMap;

use k8s_openapi::api::networking::v1::{
    NetworkPolicy, NetworkPolicyIngressRule, NetworkPolicyPeer, NetworkPolicyPort,
    NetworkPolicySpec,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::deployment::PORT_NAME;
use super::{FIELD_MANAGER, ListenerResources, NAME};

/// The label that the API server gives every namespace: its name.
const NAMESPACE_NAME: &str = "kubernetes.io/metadata.name";

/// Builds the policy: ingress from the operator and from the namespaces where metrics are read.
#[must_use]
pub fn build(resources: &ListenerResources) -> NetworkPolicy {
    NetworkPolicy {
        metadata: resources.metadata(resources.object_name()),
        spec: Some(NetworkPolicySpec {
            pod_selector: Some(labelled(resources.all_pods())),
            policy_types: Some(vec!["Ingress".to_owned()]),
            ingress: Some(vec![NetworkPolicyIngressRule {
                from: Some(peers(resources)),
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

/// Returns the admitted peers; never empty, as that would admit everybody.
fn peers(resources: &ListenerResources) -> Vec<NetworkPolicyPeer> {
    let installation = &resources.installation;
    let one = |name: &str, value: &str| labelled([(name.to_owned(), value.to_owned())].into());
    let mut peers = vec![NetworkPolicyPeer {
        namespace_selector: Some(one(NAMESPACE_NAME, &installation.namespace)),
        pod_selector: Some(one(NAME, FIELD_MANAGER)),
        ip_block: None,
    }];
    // An empty selector would choose all namespaces.
    if !installation.metrics_from.is_empty() {
        peers.push(NetworkPolicyPeer {
            namespace_selector: Some(labelled(installation.metrics_from.clone())),
            ..NetworkPolicyPeer::default()
        });
    }
    peers
}

fn labelled(labels: BTreeMap<String, String>) -> LabelSelector {
    LabelSelector {
        match_labels: Some(labels),
        match_expressions: None,
    }
}
