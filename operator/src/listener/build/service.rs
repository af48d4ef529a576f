//! The headless Service of a listener's pods: a DNS name for each, for scrapers and for clients of the HTTP
//! API.

use k8s_openapi::api::core::v1::{Service, ServicePort, ServiceSpec};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::ListenerResources;
use super::deployment::{API_PORT_NAME, PORT, PORT_NAME, api_port};

/// Builds the Service. It is headless, because every pod has metrics of its own.
#[must_use]
pub fn build(resources: &ListenerResources) -> Service {
    let port = |name: &str, number| ServicePort {
        name: Some(name.to_owned()),
        port: number,
        protocol: Some("TCP".to_owned()),
        target_port: Some(IntOrString::String(name.to_owned())),
        ..ServicePort::default()
    };
    let api = api_port(resources).map(|number| port(API_PORT_NAME, number));
    Service {
        metadata: resources.metadata(resources.object_name()),
        spec: Some(ServiceSpec {
            cluster_ip: Some("None".to_owned()),
            selector: Some(resources.all_pods()),
            ports: Some([port(PORT_NAME, PORT)].into_iter().chain(api).collect()),
            ..ServiceSpec::default()
        }),
        ..Service::default()
    }
}
