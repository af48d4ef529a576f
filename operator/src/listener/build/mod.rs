//! What a listener needs in the cluster, one file per kind: pure functions from a checked listener
//! to the objects that it should have.
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

use crds::duration::Span;
use crds::resources::{ObserverListener, PodTemplate};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta, OwnerReference};
use kube::Resource;
use kube::core::ApiResource;
use serde::Serialize;
use serde_json::Value;

/// Field manager of everything that the operator applies.
pub const FIELD_MANAGER: &str = "observer-operator";

/// Label that all owned objects carry, with [`FIELD_MANAGER`] as its value.
pub const MANAGED_BY: &str = "app.kubernetes.io/managed-by";

/// Label with the listener's name.
pub const INSTANCE: &str = "app.kubernetes.io/instance";

/// Label with the kind of program.
pub const NAME: &str = "app.kubernetes.io/name";

/// Label with the part that a pod has. Only the operator's pods for jobs have it from the operator,
/// and users may give it to others, so nothing is decided by it.
const COMPONENT: &str = "app.kubernetes.io/component";

/// Value of [`COMPONENT`] for pods for jobs.
const WORKER: &str = "worker";

/// Kind of program of the pods that have the shards.
const LISTENER_PROGRAM: &str = "observer-listener";

/// Kind of program of the pods for jobs. It is another one, so that what selects the former by this
/// label never selects the latter.
pub const WORKER_PROGRAM: &str = "observer-worker";

/// Annotation with the hash of the bundle, on its Secret.
pub const BUNDLE_HASH: &str = "observers.fraiseql.dev/bundle-hash";

/// What the operator is told that goes into the objects of every listener.
#[derive(Clone, Debug, Default)]
pub struct Installation {
    /// Image of listeners that name none.
    pub image: String,
    /// Namespace of the operator.
    pub namespace: String,
    /// Labels of the namespaces from which metrics are read; from none where there are no labels.
    pub metrics_from: BTreeMap<String, String>,
}

/// A listener with everything that its objects are made from.
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
    /// Number of pods for jobs alone.
    pub workers: i32,
    /// How long a stop waits for attempts under way.
    pub drain_timeout: Span,
    /// What users add to the pods.
    pub template: PodTemplate,
    /// What is the same for all listeners.
    pub installation: Installation,
}

/// What a pod of a listener is there for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PodRole {
    /// The shards.
    Listener,
    /// Jobs alone.
    Worker,
}

/// The kinds of owned objects, in the order in which they are applied: the workload last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// Who the pods are.
    ServiceAccount,
    /// What they may do.
    Role,
    /// That they may.
    RoleBinding,
    /// What they run.
    Secret,
    /// Where they answer.
    Service,
    /// Who may reach them.
    NetworkPolicy,
    /// How many may be evicted at once.
    PodDisruptionBudget,
    /// How many of the pods for jobs may be evicted at once.
    WorkersBudget,
    /// The pods.
    Deployment,
    /// The pods for jobs.
    Workers,
}

impl Kind {
    /// Every kind, in the order in which they are applied.
    pub const ALL: [Self; 10] = [
        Self::ServiceAccount,
        Self::Role,
        Self::RoleBinding,
        Self::Secret,
        Self::Service,
        Self::NetworkPolicy,
        Self::PodDisruptionBudget,
        Self::WorkersBudget,
        Self::Deployment,
        Self::Workers,
    ];

    /// The kind under which it is watched, with others that the API server keeps in one place.
    #[must_use]
    pub fn watched_kind(self) -> Self {
        match self {
            Self::WorkersBudget => Self::PodDisruptionBudget,
            Self::Workers => Self::Deployment,
            other => other,
        }
    }

    /// Where the API server keeps it.
    #[must_use]
    pub fn resource(self) -> ApiResource {
        use k8s_openapi::api::{apps, core, networking, policy, rbac};
        match self {
            Self::ServiceAccount => ApiResource::erase::<core::v1::ServiceAccount>(&()),
            Self::Role => ApiResource::erase::<rbac::v1::Role>(&()),
            Self::RoleBinding => ApiResource::erase::<rbac::v1::RoleBinding>(&()),
            Self::Secret => ApiResource::erase::<core::v1::Secret>(&()),
            Self::Service => ApiResource::erase::<core::v1::Service>(&()),
            Self::NetworkPolicy => ApiResource::erase::<networking::v1::NetworkPolicy>(&()),
            Self::PodDisruptionBudget | Self::WorkersBudget => {
                ApiResource::erase::<policy::v1::PodDisruptionBudget>(&())
            }
            Self::Deployment | Self::Workers => ApiResource::erase::<apps::v1::Deployment>(&()),
        }
    }
}

/// An object as it should be.
#[derive(Clone, Debug)]
pub struct DesiredObject {
    /// Its kind.
    pub kind: Kind,
    /// Its name.
    pub name: String,
    /// All that the operator has to say about it.
    pub object: Value,
}

impl ListenerResources {
    /// A listener as the API server has it. It has a namespace, a name and a uid there.
    #[must_use]
    pub fn new(listener: &ObserverListener, installation: &Installation) -> Self {
        let meta = &listener.metadata;
        Self {
            namespace: meta.namespace.clone().unwrap_or_default(),
            name: meta.name.clone().unwrap_or_default(),
            uid: meta.uid.clone().unwrap_or_default(),
            replicas: listener.spec.replicas,
            workers: workers(listener),
            drain_timeout: listener.spec.delivery.drain_timeout,
            template: listener.spec.pod_template.clone().unwrap_or_default(),
            installation: installation.clone(),
        }
    }

    /// Name of all owned objects but the bundle and those of the pods for jobs.
    #[must_use]
    pub fn object_name(&self) -> String {
        object_name(&self.name)
    }

    /// Name of the objects of some pods alone.
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

    /// Name of the Secret with the bundle.
    #[must_use]
    pub fn bundle_name(&self) -> String {
        bundle_name(&self.name)
    }

    /// Every object that this listener should have besides its bundle.
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

    /// The Secret with a bundle.
    pub fn bundle(&self, text: &str, hash: &str) -> Result<DesiredObject, serde_json::Error> {
        Ok(DesiredObject {
            kind: Kind::Secret,
            name: self.bundle_name(),
            object: serde_json::to_value(bundle_secret::build(self, text, hash))?,
        })
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

    /// Metadata of an object of some pods alone, which has their labels.
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

    /// Selects some pods.
    fn selector(&self, role: PodRole) -> LabelSelector {
        LabelSelector {
            match_labels: Some(self.selector_labels(role)),
            match_expressions: None,
        }
    }

    /// Selects all pods, whatever they are there for.
    fn all_pods(&self) -> BTreeMap<String, String> {
        BTreeMap::from([
            (INSTANCE.to_owned(), self.name.clone()),
            (MANAGED_BY.to_owned(), FIELD_MANAGER.to_owned()),
        ])
    }
}

/// Number of pods for jobs alone that a listener asks for.
#[must_use]
pub fn workers(listener: &ObserverListener) -> i32 {
    i32::try_from(listener.spec.queue.workers.replicas).unwrap_or(i32::MAX)
}

/// Name of all owned objects of a listener but the bundle and those of the pods for jobs.
#[must_use]
pub fn object_name(listener: &str) -> String {
    format!("{listener}-listener")
}

/// Name of the objects of a listener's pods for jobs.
#[must_use]
pub fn workers_name(listener: &str) -> String {
    format!("{listener}-workers")
}

/// Name of the Job that removes a listener's rows when it is deleted.
#[must_use]
pub fn cleanup_job_name(listener: &str) -> String {
    format!("{listener}-listener-forget")
}

/// Name of the Secret with a listener's bundle.
#[must_use]
pub fn bundle_name(listener: &str) -> String {
    format!("{listener}-listener-bundle")
}

/// The pods of a listener, for the scale subresource, without those for jobs.
#[must_use]
pub fn selector_text(listener: &str) -> String {
    format!("{INSTANCE}={listener},{NAME}={LISTENER_PROGRAM}")
}
