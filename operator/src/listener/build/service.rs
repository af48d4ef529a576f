//! The headless Service of a listener's pods: a DNS name for each, for scrapers.

use k8s_openapi::api::core::v1::{Service, ServicePort, ServiceSpec};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::ListenerResources;
use super::deployment::{PORT, PORT_NAME};

/// Builds the Service. It is headless, because every pod has metrics of its own.
#[must_use]
pub fn build(resources: &ListenerResources) -> Service {
    Service {
        metadata: resources.metadata(resources.object_name()),
        spec: Some(ServiceSpec {
            cluster_ip: Some("None".to_owned()),
            selector: Some(resources.all_pods()),
            ports: Some(vec![ServicePort {
                name: Some(PORT_NAME.to_owned()),
                port: PORT,
                protocol: Some("TCP".to_owned()),
                target_port: Some(IntOrString::String(PORT_NAME.to_owned())),
                ..ServicePort::default()
            }]),
            ..ServiceSpec::default()
        }),
        ..Service::default()
    }
}
