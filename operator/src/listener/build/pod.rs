//! What all pods of a listener have in common.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    Capabilities, Container, EnvVar, PodSecurityContext, PodSpec, PodTemplateSpec,
    ResourceRequirements, SeccompProfile, SecurityContext,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::ListenerResources;

/// The listener's program.
const PROGRAM: &str = "/usr/local/bin/observer-listener";

/// User and group of the image.
const USER: i64 = 65532;

/// Builds a template with these labels and the users' annotations.
pub(super) fn template(
    resources: &ListenerResources,
    labels: BTreeMap<String, String>,
    spec: PodSpec,
) -> PodTemplateSpec {
    PodTemplateSpec {
        metadata: Some(ObjectMeta {
            labels: Some(labels),
            annotations: filled(resources.template.annotations.clone()),
            ..ObjectMeta::default()
        }),
        spec: Some(spec),
    }
}

/// Builds a pod with the listener's service account and the users' placement.
pub(super) fn spec(resources: &ListenerResources, container: Container) -> PodSpec {
    let template = &resources.template;
    PodSpec {
        service_account_name: Some(resources.object_name()),
        automount_service_account_token: Some(true),
        enable_service_links: Some(false),
        security_context: Some(PodSecurityContext {
            run_as_non_root: Some(true),
            run_as_user: Some(USER),
            run_as_group: Some(USER),
            seccomp_profile: Some(SeccompProfile {
                type_: "RuntimeDefault".to_owned(),
                ..SeccompProfile::default()
            }),
            ..PodSecurityContext::default()
        }),
        containers: vec![container],
        image_pull_secrets: listed(template.image_pull_secrets.clone()),
        node_selector: filled(template.node_selector.clone()),
        affinity: template.affinity.clone(),
        tolerations: listed(template.tolerations.clone()),
        topology_spread_constraints: listed(template.topology_spread_constraints.clone()),
        priority_class_name: template.priority_class_name.clone(),
        ..PodSpec::default()
    }
}

/// Builds a container of the listener's program, with these variables and the users'.
pub(super) fn container(
    resources: &ListenerResources,
    name: &str,
    command: &[&str],
    ours: Vec<EnvVar>,
) -> Container {
    let template = &resources.template;
    let command = [PROGRAM].iter().chain(command);
    Container {
        name: name.to_owned(),
        image: Some(
            template
                .image
                .clone()
                .unwrap_or_else(|| resources.installation.image.clone()),
        ),
        command: Some(command.map(|word| (*word).to_owned()).collect()),
        // None of the names that users give is one of ours.
        env: Some(template.env.iter().cloned().chain(ours).collect()),
        resources: Some(template.resources.clone().unwrap_or_else(default_resources)),
        security_context: Some(SecurityContext {
            allow_privilege_escalation: Some(false),
            read_only_root_filesystem: Some(true),
            capabilities: Some(Capabilities {
                drop: Some(vec!["ALL".to_owned()]),
                add: None,
            }),
            ..SecurityContext::default()
        }),
        ..Container::default()
    }
}

/// Builds a variable with a literal value.
pub(super) fn plain(name: &str, value: &str) -> EnvVar {
    EnvVar {
        name: name.to_owned(),
        value: Some(value.to_owned()),
        value_from: None,
    }
}

fn default_resources() -> ResourceRequirements {
    let quantity = |name: &str, amount: &str| (name.to_owned(), Quantity(amount.to_owned()));
    ResourceRequirements {
        requests: Some([quantity("cpu", "50m"), quantity("memory", "64Mi")].into()),
        limits: Some([quantity("memory", "256Mi")].into()),
        claims: None,
    }
}

pub(super) fn filled(map: BTreeMap<String, String>) -> Option<BTreeMap<String, String>> {
    (!map.is_empty()).then_some(map)
}

fn listed<T>(list: Vec<T>) -> Option<Vec<T>> {
    (!list.is_empty()).then_some(list)
}
