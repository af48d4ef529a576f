//! A listener's pods, and its pods for jobs, which differ in their command alone.

use std::collections::BTreeMap;

use crds::report::STATUS_PORT;
use crds::resources::PodTemplate;
use k8s_openapi::api::apps::v1::{
    Deployment, DeploymentSpec, DeploymentStrategy, RollingUpdateDeployment,
};
use k8s_openapi::api::core::v1::{
    Capabilities, Container, ContainerPort, EnvVar, EnvVarSource, HTTPGetAction,
    ObjectFieldSelector, PodSecurityContext, PodSpec, PodTemplateSpec, Probe, ResourceRequirements,
    SeccompProfile, SecurityContext,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::{Fleet, Part};

/// Name of the pods' one port.
pub(super) const PORT_NAME: &str = "http";

/// The pods' one port.
pub(super) const PORT: i32 = STATUS_PORT as i32;

/// User and group of the image.
const USER: i64 = 65532;

/// What a pod has for its end beyond the drain, which is one for all of its shards: time to save,
/// to give up its Leases, and to exit.
const GRACE_BEYOND_DRAIN: i64 = 10;

/// Old pod templates that are kept for a look back.
const REVISIONS: i32 = 3;

/// How long new pods may take before the Deployment says that it does not get on.
const PROGRESS_DEADLINE: i32 = 120;

/// The pods, with what users add to them. They go one at a time, each once a new one is ready to
/// take up its work, so that the work changes hands and does not wait.
#[must_use]
pub fn build(fleet: &Fleet, part: Part) -> Deployment {
    Deployment {
        metadata: fleet.part_metadata(part),
        spec: Some(DeploymentSpec {
            replicas: Some(fleet.pods(part)),
            selector: fleet.selector(part),
            revision_history_limit: Some(REVISIONS),
            progress_deadline_seconds: Some(PROGRESS_DEADLINE),
            strategy: Some(DeploymentStrategy {
                type_: Some("RollingUpdate".to_owned()),
                rolling_update: Some(RollingUpdateDeployment {
                    max_surge: Some(IntOrString::Int(1)),
                    max_unavailable: Some(IntOrString::Int(0)),
                }),
            }),
            template: pod(fleet, part),
            ..DeploymentSpec::default()
        }),
        status: None,
    }
}

fn pod(fleet: &Fleet, part: Part) -> PodTemplateSpec {
    let template = &fleet.template;
    let mut labels = template.labels.clone();
    labels.extend(fleet.pod_labels(part));
    PodTemplateSpec {
        metadata: Some(ObjectMeta {
            labels: Some(labels),
            annotations: filled(template.annotations.clone()),
            ..ObjectMeta::default()
        }),
        spec: Some(PodSpec {
            service_account_name: Some(fleet.object_name()),
            automount_service_account_token: Some(true),
            enable_service_links: Some(false),
            termination_grace_period_seconds: Some(grace(fleet)),
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
            containers: vec![container(fleet, part)],
            image_pull_secrets: listed(template.image_pull_secrets.clone()),
            node_selector: filled(template.node_selector.clone()),
            affinity: template.affinity.clone(),
            tolerations: listed(template.tolerations.clone()),
            topology_spread_constraints: listed(template.topology_spread_constraints.clone()),
            priority_class_name: template.priority_class_name.clone(),
            ..PodSpec::default()
        }),
    }
}

fn container(fleet: &Fleet, part: Part) -> Container {
    let template = &fleet.template;
    let (name, command) = match part {
        Part::Listener => ("listener", "run"),
        Part::Worker => ("worker", "work"),
    };
    Container {
        name: name.to_owned(),
        image: Some(
            template
                .image
                .clone()
                .unwrap_or_else(|| fleet.image.clone()),
        ),
        command: Some(vec![
            "/usr/local/bin/observer-listener".to_owned(),
            command.to_owned(),
        ]),
        env: Some(environment(fleet)),
        ports: Some(vec![ContainerPort {
            name: Some(PORT_NAME.to_owned()),
            container_port: PORT,
            protocol: Some("TCP".to_owned()),
            ..ContainerPort::default()
        }]),
        liveness_probe: Some(Probe {
            period_seconds: Some(10),
            timeout_seconds: Some(5),
            failure_threshold: Some(3),
            ..probe("/healthz")
        }),
        readiness_probe: Some(Probe {
            period_seconds: Some(2),
            timeout_seconds: Some(2),
            failure_threshold: Some(2),
            ..probe("/readyz")
        }),
        resources: Some(template.resources.clone().unwrap_or_else(resources)),
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

/// What the listener needs comes last, and its names are taken from users' variables: the last of
/// a name wins, and a name stands only once.
fn environment(fleet: &Fleet) -> Vec<EnvVar> {
    let ours = [
        plain("OBSERVER_BUNDLE", &fleet.bundle_name()),
        plain("OBSERVER_LISTEN", &format!("0.0.0.0:{PORT}")),
        plain("OBSERVER_LISTENER", &fleet.name),
        plain("OBSERVER_LOG_FORMAT", "json"),
        field("POD_NAME", "metadata.name"),
        field("POD_NAMESPACE", "metadata.namespace"),
        field("POD_UID", "metadata.uid"),
        field("POD_IP", "status.podIP"),
    ];
    let PodTemplate { env, .. } = &fleet.template;
    let mut variables: Vec<EnvVar> = Vec::new();
    for (index, variable) in env.iter().enumerate() {
        let named = |other: &EnvVar| other.name == variable.name;
        if !ours.iter().any(named) && !env[index + 1..].iter().any(named) {
            variables.push(variable.clone());
        }
    }
    variables.extend(ours);
    variables
}

fn plain(name: &str, value: &str) -> EnvVar {
    EnvVar {
        name: name.to_owned(),
        value: Some(value.to_owned()),
        value_from: None,
    }
}

fn field(name: &str, path: &str) -> EnvVar {
    EnvVar {
        name: name.to_owned(),
        value: None,
        value_from: Some(EnvVarSource {
            field_ref: Some(ObjectFieldSelector {
                api_version: Some("v1".to_owned()),
                field_path: path.to_owned(),
            }),
            ..EnvVarSource::default()
        }),
    }
}

fn probe(path: &str) -> Probe {
    Probe {
        http_get: Some(HTTPGetAction {
            path: Some(path.to_owned()),
            port: IntOrString::String(PORT_NAME.to_owned()),
            ..HTTPGetAction::default()
        }),
        ..Probe::default()
    }
}

fn resources() -> ResourceRequirements {
    let quantity = |name: &str, amount: &str| (name.to_owned(), Quantity(amount.to_owned()));
    ResourceRequirements {
        requests: Some([quantity("cpu", "50m"), quantity("memory", "64Mi")].into()),
        limits: Some([quantity("memory", "256Mi")].into()),
        claims: None,
    }
}

/// The drain in whole seconds, rounded up, and what comes after it.
fn grace(fleet: &Fleet) -> i64 {
    let drain = fleet.drain_timeout.duration().as_millis().div_ceil(1000);
    i64::try_from(drain).unwrap_or(i64::MAX - GRACE_BEYOND_DRAIN) + GRACE_BEYOND_DRAIN
}

fn filled(map: BTreeMap<String, String>) -> Option<BTreeMap<String, String>> {
    (!map.is_empty()).then_some(map)
}

fn listed<T>(list: Vec<T>) -> Option<Vec<T>> {
    (!list.is_empty()).then_some(list)
}
