//! The Deployments of a listener's pods and of its workers, which differ in their command only.

use crds::pod_status::STATUS_PORT;
use k8s_openapi::api::apps::v1::{
    Deployment, DeploymentSpec, DeploymentStrategy, RollingUpdateDeployment,
};
use k8s_openapi::api::core::v1::{
    Container, ContainerPort, EnvVar, EnvVarSource, HTTPGetAction, ObjectFieldSelector, PodSpec,
    PodTemplateSpec, Probe, TopologySpreadConstraint,
};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::pod::{self, plain};
use super::{ListenerResources, PodRole};

/// Name of the port of health checks, status and metrics.
pub(super) const PORT_NAME: &str = "http";

/// Name of the port of the HTTP API.
pub(super) const API_PORT_NAME: &str = "api";

/// The port of health checks, status and metrics.
pub(super) const PORT: i32 = STATUS_PORT as i32;

/// Time that a pod has to shut down beyond the drain timeout: to save, to release its Leases, and to
/// exit.
const GRACE_BEYOND_DRAIN: i64 = 10;

/// Old pod templates that are kept.
const REVISIONS: i32 = 3;

/// Label of nodes by which pods are spread.
const NODE: &str = "kubernetes.io/hostname";

/// Deadline for a rollout to make progress, in seconds.
const PROGRESS_DEADLINE: i32 = 120;

/// Builds the Deployment. A rollout replaces one pod at a time, each once a new one is ready, so that
/// shards are handed over without a pause.
#[must_use]
pub fn build(resources: &ListenerResources, role: PodRole) -> Deployment {
    Deployment {
        metadata: resources.role_metadata(role),
        spec: Some(DeploymentSpec {
            replicas: Some(resources.pods(role)),
            selector: resources.selector(role),
            revision_history_limit: Some(REVISIONS),
            progress_deadline_seconds: Some(PROGRESS_DEADLINE),
            strategy: Some(DeploymentStrategy {
                type_: Some("RollingUpdate".to_owned()),
                rolling_update: Some(RollingUpdateDeployment {
                    max_surge: Some(IntOrString::Int(1)),
                    max_unavailable: Some(IntOrString::Int(0)),
                }),
            }),
            template: pod(resources, role),
            ..DeploymentSpec::default()
        }),
        status: None,
    }
}

fn pod(resources: &ListenerResources, role: PodRole) -> PodTemplateSpec {
    let mut labels = resources.template.labels.clone();
    labels.extend(resources.pod_labels(role));
    let spec = PodSpec {
        termination_grace_period_seconds: Some(grace(resources)),
        topology_spread_constraints: Some(spread(resources, role)),
        ..pod::spec(resources, container(resources, role))
    };
    pod::template(resources, labels, spec)
}

/// Returns how users spread the pods; where they do not say, over nodes as far as possible, so that one failure takes
/// few of them. A constraint by zones would be more, but where nodes have no zones, the scheduler then looks at none.
fn spread(resources: &ListenerResources, role: PodRole) -> Vec<TopologySpreadConstraint> {
    let given = &resources.template.topology_spread_constraints;
    if !given.is_empty() {
        return given.clone();
    }
    vec![TopologySpreadConstraint {
        max_skew: 1,
        topology_key: NODE.to_owned(),
        when_unsatisfiable: "ScheduleAnyway".to_owned(),
        label_selector: Some(resources.selector(role)),
        // Pods of an old template go, wherever they are.
        match_label_keys: Some(vec!["pod-template-hash".to_owned()]),
        ..TopologySpreadConstraint::default()
    }]
}

fn container(resources: &ListenerResources, role: PodRole) -> Container {
    let (name, command) = match role {
        PodRole::Listener => ("listener", "run"),
        PodRole::Worker => ("worker", "worker"),
    };
    Container {
        ports: Some(ports(resources)),
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
        ..pod::container(resources, name, &[command], environment(resources))
    }
}

fn ports(resources: &ListenerResources) -> Vec<ContainerPort> {
    let port = |name: &str, number| ContainerPort {
        name: Some(name.to_owned()),
        container_port: number,
        protocol: Some("TCP".to_owned()),
        ..ContainerPort::default()
    };
    let own = api_port(resources).map(|number| port(API_PORT_NAME, number));
    [port(PORT_NAME, PORT)].into_iter().chain(own).collect()
}

/// Returns the port of the HTTP API, where it is another one than that of health checks.
pub(super) fn api_port(resources: &ListenerResources) -> Option<i32> {
    let port = resources.api_port.map(i32::from);
    port.filter(|port| *port != PORT)
}

fn environment(resources: &ListenerResources) -> Vec<EnvVar> {
    let api = resources
        .api_port
        .map(|port| plain("OBSERVER_API_LISTEN", &format!("0.0.0.0:{port}")));
    let mut all = vec![
        plain("OBSERVER_BUNDLE", &resources.bundle_name()),
        plain("OBSERVER_LISTEN", &format!("0.0.0.0:{PORT}")),
        plain("OBSERVER_LISTENER", &resources.name),
        plain("OBSERVER_LOG_FORMAT", "json"),
        field("POD_NAME", "metadata.name"),
        field("POD_NAMESPACE", "metadata.namespace"),
        field("POD_UID", "metadata.uid"),
        field("POD_IP", "status.podIP"),
    ];
    all.extend(api);
    if resources.installation.authorize_metrics {
        all.push(plain("OBSERVER_AUTHORIZE_METRICS", "true"));
    }
    all
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

/// Returns the grace period in seconds.
fn grace(resources: &ListenerResources) -> i64 {
    let drain = resources
        .drain_timeout
        .duration()
        .as_millis()
        .div_ceil(1000);
    i64::try_from(drain).unwrap_or(i64::MAX - GRACE_BEYOND_DRAIN) + GRACE_BEYOND_DRAIN
}
