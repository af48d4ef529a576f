//! Builds the objects of a listener, one file per kind: pure functions.
//!
//! The pod template depends on nothing that changes while a listener runs: neither observers nor
//! secrets nor the number of replicas roll the pods.

pub mod bundle_secret;
pub mod cleanup_job;
pub mod deployment;
pub mod network_policy;
mod pod;
pub mod pod_disruption_budget;
pub mod role;
pub mod role_binding;
pub mod service;
pub mod service_account;

use std::collections::BTreeMap;
use std::sync::Arc;

use crds::bundle::{MAX_PARTS, part_name};
use crds::duration::HumanDuration;
use crds::v1alpha1::{ObserverListener, PodTemplate};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta, OwnerReference};
use kube::Resource;
use kube::core::ApiResource;
use serde::Serialize;
use serde_json::Value;

use super::derived_egress::DerivedEgress;
use super::validate::Bundle;

/// Field manager of everything that the operator applies.
pub const FIELD_MANAGER: &str = "observer-operator";

/// Label that all owned objects carry, with [`FIELD_MANAGER`] as its value.
pub const MANAGED_BY: &str = "app.kubernetes.io/managed-by";

/// Label with the listener's name.
pub const INSTANCE: &str = "app.kubernetes.io/instance";

/// Label with the kind of program.
pub const NAME: &str = "app.kubernetes.io/name";

/// Label with the role of a pod. Only workers have it from the operator, and users may set it on other
/// pods, so no decision reads it.
const COMPONENT: &str = "app.kubernetes.io/component";

/// Value of [`COMPONENT`] for workers.
const WORKER: &str = "worker";

/// Kind of program of the pods that own shards.
const LISTENER_PROGRAM: &str = "observer-listener";

/// Kind of program of workers. It differs, so that selectors of the former never match the latter.
pub const WORKER_PROGRAM: &str = "observer-worker";

/// Settings of the operator for the objects of every listener.
#[derive(Clone, Debug, Default)]
pub struct Installation {
    /// Image of listeners that name none.
    pub image: String,
    /// Namespace of the operator.
    pub namespace: String,
    /// Labels of the namespaces from which metrics are read; from none where there are no labels.
    pub metrics_from: BTreeMap<String, String>,
    /// Whether metrics need the token of a user who may read them.
    pub authorize_metrics: bool,
    /// Ports of the API server's own endpoints, which are not always those of its Service.
    pub api_server_ports: Vec<u16>,
}

/// Input of a listener's objects.
#[derive(Clone, Debug)]
pub struct ListenerResources {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its uid, for the owner references.
    pub uid: String,
    /// Number of pods.
    pub replicas: i32,
    /// Number of workers.
    pub workers: i32,
    /// Port of the HTTP API, if there is one.
    pub api_port: Option<u16>,
    /// How long a shutdown waits for attempts in flight.
    pub drain_timeout: HumanDuration,
    /// Number of Secrets of the bundle.
    pub bundle_parts: usize,
    /// What the pods may connect to; everything where absent.
    pub egress: Option<Arc<DerivedEgress>>,
    /// What users add to the pods.
    pub template: PodTemplate,
    /// Settings for all listeners.
    pub installation: Installation,
}

/// Role of a listener's pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PodRole {
    /// It owns shards, and runs jobs besides.
    Listener,
    /// It runs jobs only.
    Worker,
}

/// The kinds of owned objects, in the order in which they are applied: the workload last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// Identity of the pods.
    ServiceAccount,
    /// Permissions of the pods.
    Role,
    /// Grant of the permissions.
    RoleBinding,
    /// Ingress to the pods, and egress: what a bundle makes them connect to is admitted before they have it.
    NetworkPolicy,
    /// A part of the bundle after the first, counted from 2.
    BundlePart(u8),
    /// The bundle, or the first part of it: it tells what the others have to be.
    Secret,
    /// Names of the pods in DNS.
    Service,
    /// Eviction limit of the pods.
    PodDisruptionBudget,
    /// Eviction limit of the workers.
    WorkersBudget,
    /// The pods.
    Deployment,
    /// The workers.
    Workers,
}

impl Kind {
    /// Every kind, in the order in which they are applied.
    pub const ALL: [Self; 9 + MAX_PARTS] = [
        Self::ServiceAccount,
        Self::Role,
        Self::RoleBinding,
        Self::NetworkPolicy,
        Self::BundlePart(2),
        Self::BundlePart(3),
        Self::BundlePart(4),
        Self::BundlePart(5),
        Self::BundlePart(6),
        Self::BundlePart(7),
        Self::BundlePart(8),
        Self::Secret,
        Self::Service,
        Self::PodDisruptionBudget,
        Self::WorkersBudget,
        Self::Deployment,
        Self::Workers,
    ];

    /// Returns the kinds of the Secrets of a bundle with this many, the first one first.
    pub fn of_bundle(parts: usize) -> impl Iterator<Item = Self> {
        let rest = (2..=MAX_PARTS).filter_map(|part| u8::try_from(part).ok());
        let all = std::iter::once(Self::Secret).chain(rest.map(Self::BundlePart));
        all.take(parts)
    }

    /// Returns the kind whose watch covers it: there is one watch per API resource.
    #[must_use]
    pub fn watched_kind(self) -> Self {
        match self {
            Self::WorkersBudget => Self::PodDisruptionBudget,
            Self::Workers => Self::Deployment,
            Self::BundlePart(_) => Self::Secret,
            other => other,
        }
    }

    /// Returns the API resource.
    #[must_use]
    pub fn resource(self) -> ApiResource {
        use k8s_openapi::api::{apps, core, networking, policy, rbac};
        match self {
            Self::ServiceAccount => ApiResource::erase::<core::v1::ServiceAccount>(&()),
            Self::Role => ApiResource::erase::<rbac::v1::Role>(&()),
            Self::RoleBinding => ApiResource::erase::<rbac::v1::RoleBinding>(&()),
            Self::Secret | Self::BundlePart(_) => ApiResource::erase::<core::v1::Secret>(&()),
            Self::Service => ApiResource::erase::<core::v1::Service>(&()),
            Self::NetworkPolicy => ApiResource::erase::<networking::v1::NetworkPolicy>(&()),
            Self::PodDisruptionBudget | Self::WorkersBudget => {
                ApiResource::erase::<policy::v1::PodDisruptionBudget>(&())
            }
            Self::Deployment | Self::Workers => ApiResource::erase::<apps::v1::Deployment>(&()),
        }
    }
}

/// Desired state of an object.
#[derive(Clone, Debug)]
pub struct DesiredObject {
    /// Its kind.
    pub kind: Kind,
    /// Its name.
    pub name: String,
    /// The fields that the operator applies.
    pub object: Value,
}

impl ListenerResources {
    /// Takes the input from a listener as the API server stores it, with namespace, name and uid. Its bundle takes this
    /// many Secrets. What its pods connect to is not restricted.
    #[must_use]
    pub fn new(
        listener: &ObserverListener,
        bundle_parts: usize,
        installation: &Installation,
    ) -> Self {
        let meta = &listener.metadata;
        Self {
            namespace: meta.namespace.clone().unwrap_or_default(),
            name: meta.name.clone().unwrap_or_default(),
            uid: meta.uid.clone().unwrap_or_default(),
            replicas: listener.spec.replicas,
            workers: workers(listener),
            api_port: listener.spec.api.as_ref().map(|api| api.port),
            drain_timeout: listener.spec.delivery.drain_timeout,
            bundle_parts,
            egress: None,
            template: listener.spec.pod_template.clone().unwrap_or_default(),
            installation: installation.clone(),
        }
    }

    /// Returns the name of all objects but the bundle and those of the workers.
    #[must_use]
    pub fn object_name(&self) -> String {
        object_name(&self.name)
    }

    /// Returns the name of the objects of one role.
    fn role_name(&self, role: PodRole) -> String {
        match role {
            PodRole::Listener => object_name(&self.name),
            PodRole::Worker => workers_name(&self.name),
        }
    }

    fn pods(&self, role: PodRole) -> i32 {
        match role {
            PodRole::Listener => self.replicas,
            PodRole::Worker => self.workers,
        }
    }

    /// Returns the name of the first Secret of the bundle.
    #[must_use]
    pub fn bundle_name(&self) -> String {
        bundle_name(&self.name)
    }

    /// Returns the name of a Secret of the bundle, which are counted from 1.
    fn bundle_part_name(&self, part: usize) -> String {
        part_name(&self.bundle_name(), part)
    }

    /// Builds all objects but the bundle.
    pub fn objects(&self) -> Result<Vec<DesiredObject>, serde_json::Error> {
        let mut objects = vec![
            self.built(Kind::ServiceAccount, &service_account::build(self))?,
            self.built(Kind::Role, &role::build(self))?,
            self.built(Kind::RoleBinding, &role_binding::build(self))?,
            self.built(Kind::Service, &service::build(self))?,
            self.built(Kind::NetworkPolicy, &network_policy::build(self))?,
        ];
        let budget = |role| pod_disruption_budget::build(self, role);
        if let Some(budget) = budget(PodRole::Listener) {
            objects.push(self.built(Kind::PodDisruptionBudget, &budget)?);
        }
        let listeners = deployment::build(self, PodRole::Listener);
        objects.push(self.built(Kind::Deployment, &listeners)?);
        if self.workers > 0 {
            if let Some(budget) = budget(PodRole::Worker) {
                objects.push(self.built_for_workers(Kind::WorkersBudget, &budget)?);
            }
            let workers = deployment::build(self, PodRole::Worker);
            objects.push(self.built_for_workers(Kind::Workers, &workers)?);
        }
        Ok(objects)
    }

    /// Builds the bundle's Secrets.
    pub fn bundle(&self, bundle: &Bundle) -> Result<Vec<DesiredObject>, serde_json::Error> {
        let secrets = bundle_secret::build(self, bundle);
        let built = Kind::of_bundle(secrets.len()).zip(secrets).enumerate();
        built
            .map(|(n, (kind, secret))| {
                Ok(DesiredObject {
                    kind,
                    name: self.bundle_part_name(n + 1),
                    object: serde_json::to_value(secret)?,
                })
            })
            .collect()
    }

    fn built(
        &self,
        kind: Kind,
        object: &impl Serialize,
    ) -> Result<DesiredObject, serde_json::Error> {
        Ok(DesiredObject {
            kind,
            name: self.object_name(),
            object: serde_json::to_value(object)?,
        })
    }

    fn built_for_workers(
        &self,
        kind: Kind,
        object: &impl Serialize,
    ) -> Result<DesiredObject, serde_json::Error> {
        Ok(DesiredObject {
            name: self.role_name(PodRole::Worker),
            ..self.built(kind, object)?
        })
    }

    /// Returns the metadata of an object of one role, with the labels of its pods.
    fn role_metadata(&self, role: PodRole) -> ObjectMeta {
        ObjectMeta {
            labels: Some(self.pod_labels(role)),
            ..self.metadata(self.role_name(role))
        }
    }

    fn metadata(&self, name: String) -> ObjectMeta {
        ObjectMeta {
            name: Some(name),
            namespace: Some(self.namespace.clone()),
            labels: Some(self.pod_labels(PodRole::Listener)),
            owner_references: Some(vec![self.owner()]),
            ..ObjectMeta::default()
        }
    }

    fn owner(&self) -> OwnerReference {
        OwnerReference {
            api_version: ObserverListener::api_version(&()).into_owned(),
            kind: ObserverListener::kind(&()).into_owned(),
            name: self.name.clone(),
            uid: self.uid.clone(),
            controller: Some(true),
            // What a listener's end still needs must not go before it.
            block_owner_deletion: None,
        }
    }

    fn pod_labels(&self, role: PodRole) -> BTreeMap<String, String> {
        let mut labels = self.selector_labels(role);
        labels.insert(MANAGED_BY.to_owned(), FIELD_MANAGER.to_owned());
        if role == PodRole::Worker {
            labels.insert(COMPONENT.to_owned(), WORKER.to_owned());
        }
        labels
    }

    fn selector_labels(&self, role: PodRole) -> BTreeMap<String, String> {
        let program = match role {
            PodRole::Listener => LISTENER_PROGRAM,
            PodRole::Worker => WORKER_PROGRAM,
        };
        BTreeMap::from([
            (NAME.to_owned(), program.to_owned()),
            (INSTANCE.to_owned(), self.name.clone()),
        ])
    }

    /// Returns a selector of the pods of one role.
    fn selector(&self, role: PodRole) -> LabelSelector {
        LabelSelector {
            match_labels: Some(self.selector_labels(role)),
            match_expressions: None,
        }
    }

    /// Returns the labels that select all pods.
    fn all_pods(&self) -> BTreeMap<String, String> {
        BTreeMap::from([
            (INSTANCE.to_owned(), self.name.clone()),
            (MANAGED_BY.to_owned(), FIELD_MANAGER.to_owned()),
        ])
    }
}

/// Returns the desired number of workers.
#[must_use]
pub fn workers(listener: &ObserverListener) -> i32 {
    i32::try_from(listener.spec.queue.workers.replicas).unwrap_or(i32::MAX)
}

/// Returns the name of all objects of a listener but the bundle and those of the workers.
#[must_use]
pub fn object_name(listener: &str) -> String {
    format!("{listener}-listener")
}

/// Returns the name of the objects of a listener's workers.
#[must_use]
pub fn workers_name(listener: &str) -> String {
    format!("{listener}-workers")
}

/// Returns the name of the cleanup Job.
#[must_use]
pub fn cleanup_job_name(listener: &str) -> String {
    format!("{listener}-listener-drop")
}

/// Returns the name of the bundle's Secret.
#[must_use]
pub fn bundle_name(listener: &str) -> String {
    format!("{listener}-listener-bundle")
}

/// Returns the selector of a listener's pods without workers, for the scale subresource.
#[must_use]
pub fn selector_text(listener: &str) -> String {
    format!("{INSTANCE}={listener},{NAME}={LISTENER_PROGRAM}")
}
