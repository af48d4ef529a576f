//! The `NetworkPolicy` of a listener's pods. It admits the operator, which polls their status, and
//! scrapers of metrics, to the port of both alone. Users admit others, such as clients of the HTTP API, by
//! policies of their own.
//!
//! Egress is restricted where that is asked for. The listener checks every address that it dials in any case.

use std::collections::BTreeMap;

use crds::config::public_blocks;
use ipnet::IpNet;
use k8s_openapi::api::networking::v1::{
    IPBlock, NetworkPolicy, NetworkPolicyEgressRule, NetworkPolicyIngressRule, NetworkPolicyPeer,
    NetworkPolicyPort, NetworkPolicySpec,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::deployment::PORT_NAME;
use super::{FIELD_MANAGER, ListenerResources, NAME};
use crate::listener::derived_egress::{DerivedEgress, Entries};

/// The label that the API server gives every namespace: its name.
const NAMESPACE_NAME: &str = "kubernetes.io/metadata.name";

/// Ports of DNS: of most name servers, and of the pods behind them in `OpenShift`.
const DNS_PORTS: [u16; 2] = [53, 5353];

/// Builds the policy: ingress from the operator and from the namespaces where metrics are read, and egress as derived.
#[must_use]
pub fn build(resources: &ListenerResources) -> NetworkPolicy {
    let mut policy_types = vec!["Ingress".to_owned()];
    let egress = resources.egress.as_deref().map(|derived| {
        policy_types.push("Egress".to_owned());
        egress(derived, &resources.installation.api_server_ports)
    });
    NetworkPolicy {
        metadata: resources.metadata(resources.object_name()),
        spec: Some(NetworkPolicySpec {
            pod_selector: Some(labelled(resources.all_pods())),
            policy_types: Some(policy_types),
            ingress: Some(vec![NetworkPolicyIngressRule {
                from: Some(peers(resources)),
                ports: Some(vec![port(
                    "TCP",
                    Some(IntOrString::String(PORT_NAME.to_owned())),
                )]),
            }]),
            egress,
        }),
    }
}

/// Returns the rules of egress, in an order that depends on nothing but what they admit.
fn egress(derived: &DerivedEgress, api_server_ports: &[u16]) -> Vec<NetworkPolicyEgressRule> {
    // Name servers and the API server are admitted by their ports: both may run in the network of a node, which neither
    // a selector of pods nor, in Cilium, a block of addresses stands for.
    let dns = DNS_PORTS
        .iter()
        .flat_map(|number| ["UDP", "TCP"].map(|protocol| port(protocol, Some(number_of(*number)))));
    let mut rules = vec![rule(Vec::new(), dns.collect())];
    if !api_server_ports.is_empty() {
        rules.push(rule(Vec::new(), tcp(api_server_ports)));
    }
    let namespaces = namespace_peers(&derived.namespaces);
    if !namespaces.is_empty() {
        rules.push(rule(namespaces, Vec::new()));
    }
    for (port, addresses) in &derived.addresses {
        let peers = addresses
            .iter()
            .map(|address| block(IpNet::from(*address), &[]));
        rules.push(rule(peers.collect(), tcp(&[*port])));
    }
    let public = ports(&derived.public);
    if !public.is_empty() {
        let blocks = public_blocks();
        let open = blocks.iter().map(|(net, except)| block(*net, except));
        let allowed = derived.allowed.iter().map(|net| block(*net, &[]));
        rules.push(rule(open.chain(allowed).collect(), public));
    }
    let anywhere = ports(&derived.anywhere);
    if !anywhere.is_empty() {
        rules.push(rule(Vec::new(), anywhere));
    }
    rules
}

/// Returns a rule. Without peers it admits every destination, and without ports every port.
fn rule(to: Vec<NetworkPolicyPeer>, ports: Vec<NetworkPolicyPort>) -> NetworkPolicyEgressRule {
    NetworkPolicyEgressRule {
        to: (!to.is_empty()).then_some(to),
        ports: (!ports.is_empty()).then_some(ports),
    }
}

fn namespace_peers(namespaces: &Entries<String>) -> Vec<NetworkPolicyPeer> {
    let peer = |selector| NetworkPolicyPeer {
        namespace_selector: Some(selector),
        ..NetworkPolicyPeer::default()
    };
    match namespaces {
        Entries::Some(names) => names
            .iter()
            .map(|name| peer(labelled([(NAMESPACE_NAME.to_owned(), name.clone())].into())))
            .collect(),
        Entries::All => vec![peer(LabelSelector::default())],
    }
}

/// Returns TCP ports; one without a number is all of them, and an empty list none.
fn ports(numbers: &Entries<u16>) -> Vec<NetworkPolicyPort> {
    match numbers {
        Entries::Some(numbers) => tcp(numbers),
        Entries::All => vec![port("TCP", None)],
    }
}

fn tcp<'a>(numbers: impl IntoIterator<Item = &'a u16>) -> Vec<NetworkPolicyPort> {
    let numbers = numbers.into_iter();
    numbers
        .map(|number| port("TCP", Some(number_of(*number))))
        .collect()
}

fn number_of(port: u16) -> IntOrString {
    IntOrString::Int(port.into())
}

fn port(protocol: &str, port: Option<IntOrString>) -> NetworkPolicyPort {
    NetworkPolicyPort {
        port,
        protocol: Some(protocol.to_owned()),
        end_port: None,
    }
}

fn block(net: IpNet, except: &[IpNet]) -> NetworkPolicyPeer {
    let except: Vec<String> = except.iter().map(ToString::to_string).collect();
    NetworkPolicyPeer {
        ip_block: Some(IPBlock {
            cidr: net.to_string(),
            except: (!except.is_empty()).then_some(except),
        }),
        ..NetworkPolicyPeer::default()
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
