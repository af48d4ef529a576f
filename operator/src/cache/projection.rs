//! Projections: what the cache holds of each object. Names, versions and the few fields that decisions
//! read.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use crds::v1alpha1::{Observer, ObserverListener};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Namespace, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Resource;
use kube::core::{DeserializeGuard, NamespaceResourceScope};
use serde::de::DeserializeOwned;

use crate::listener::build::{INSTANCE, Kind, NAME, WORKER_PROGRAM};
use crate::object_ref::ObjectRef;

/// Custom resource of this operator. Each object is parsed by itself, so that one that does not parse
/// affects no other.
pub trait CustomResource:
    Resource<DynamicType = (), Scope = NamespaceResourceScope>
    + Clone
    + Debug
    + DeserializeOwned
    + Send
    + 'static
{
}

impl CustomResource for ObserverListener {}
impl CustomResource for Observer {}

/// A custom resource that parses or does not.
#[derive(Debug)]
pub enum Parsed<K> {
    /// It parses.
    Valid(Arc<K>),
    /// It does not parse, as one may that was stored under an older schema.
    Invalid(Arc<InvalidResource>),
}

/// A resource that does not parse.
#[derive(Clone, Debug)]
pub struct InvalidResource {
    /// Its metadata.
    pub metadata: ObjectMeta,
    /// Why.
    pub error: String,
}

impl<K> Clone for Parsed<K> {
    fn clone(&self) -> Self {
        match self {
            Self::Valid(valid) => Self::Valid(valid.clone()),
            Self::Invalid(invalid) => Self::Invalid(invalid.clone()),
        }
    }
}

impl<K: Resource> From<DeserializeGuard<K>> for Parsed<K> {
    /// Strips the parts of the metadata that no decision reads.
    fn from(mut object: DeserializeGuard<K>) -> Self {
        let meta = object.meta_mut();
        meta.managed_fields = None;
        meta.annotations = None;
        meta.self_link = None;
        match object.0 {
            Ok(valid) => Self::Valid(Arc::new(valid)),
            Err(invalid) => Self::Invalid(Arc::new(InvalidResource {
                metadata: invalid.metadata,
                error: invalid.error,
            })),
        }
    }
}

impl<K: Resource> Parsed<K> {
    /// Returns the metadata.
    #[must_use]
    pub fn meta(&self) -> &ObjectMeta {
        match self {
            Self::Valid(valid) => valid.meta(),
            Self::Invalid(invalid) => &invalid.metadata,
        }
    }

    /// Returns whether this is an earlier version of the same object. The result of a write is cached
    /// before the watch shows it.
    #[must_use]
    pub fn older_than(&self, other: &Self) -> bool {
        let version = |meta: &ObjectMeta| meta.resource_version.as_ref()?.parse::<u64>().ok();
        let (mine, others) = (self.meta(), other.meta());
        mine.uid == others.uid
            && version(mine)
                .zip(version(others))
                .is_some_and(|(mine, others)| mine < others)
    }

    /// Returns whether nothing changed that a reconcile depends on, as where the status alone did.
    #[must_use]
    pub fn same(&self, other: &Self) -> bool {
        let part = |meta: &ObjectMeta| {
            (
                meta.uid.clone(),
                meta.generation,
                meta.labels.clone(),
                meta.deletion_timestamp.clone(),
                meta.finalizers.clone(),
            )
        };
        matches!(self, Self::Valid(_)) == matches!(other, Self::Valid(_))
            && part(self.meta()) == part(other.meta())
    }
}

/// Kinds of watched objects.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum WatchedKind {
    /// Listeners.
    Listener,
    /// Observers.
    Observer,
    /// Namespaces.
    Namespace,
    /// Secrets: the users' and bundles.
    Secret,
    /// The listeners' Deployments.
    Deployment,
    /// The listeners' pods.
    Pod,
    /// Other objects that listeners own.
    Owned(Kind),
}

/// Projection of an object of any kind. Bundles and Deployments are owned objects at the same time.
#[derive(Debug)]
pub enum CachedObject {
    /// A listener.
    Listener(Parsed<ObserverListener>),
    /// An observer.
    Observer(Parsed<Observer>),
    /// A namespace.
    Namespace(NamespaceInfo),
    /// A Secret.
    Secret(SecretInfo, Option<OwnedInfo>),
    /// A Deployment.
    Deployment(DeploymentInfo, Option<OwnedInfo>),
    /// A pod.
    Pod(PodInfo),
    /// Another owned object.
    Owned(Kind, Option<OwnedInfo>),
}

/// A namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamespaceInfo {
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Whether it is being deleted.
    pub terminating: bool,
}

impl NamespaceInfo {
    /// Projects a namespace.
    #[must_use]
    pub fn of(namespace: &Namespace) -> Self {
        Self {
            labels: namespace.metadata.labels.clone().unwrap_or_default(),
            terminating: namespace.metadata.deletion_timestamp.is_some(),
        }
    }
}

/// Version of a Secret.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SecretInfo {
    /// Its resource version.
    pub version: Arc<str>,
}

impl SecretInfo {
    /// Projects a Secret.
    #[must_use]
    pub fn of(meta: &ObjectMeta) -> Self {
        Self {
            version: meta.resource_version.as_deref().unwrap_or_default().into(),
        }
    }
}

/// An object that a listener owns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnedInfo {
    /// The listener.
    pub owner: ObjectRef,
    /// The listener's uid: an earlier one may have had its name.
    pub owner_uid: String,
    /// The object's own uid.
    pub uid: String,
    /// Digest of everything about it that the operator may have set.
    pub version: u64,
}

impl OwnedInfo {
    /// Projects an object, where a listener owns it.
    ///
    /// The generation stays the same while only the status changes. It does not cover labels and
    /// owners, so these count besides.
    #[must_use]
    pub fn of(meta: &ObjectMeta) -> Option<Self> {
        let owner = meta.owner_references.iter().flatten().find(|owner| {
            owner.controller == Some(true) && owner.kind == ObserverListener::kind(&())
        })?;
        let mut hasher = DefaultHasher::new();
        meta.uid.hash(&mut hasher);
        meta.labels.hash(&mut hasher);
        meta.deletion_timestamp.is_some().hash(&mut hasher);
        for owner in meta.owner_references.iter().flatten() {
            owner.uid.hash(&mut hasher);
        }
        match meta.generation {
            Some(generation) => generation.hash(&mut hasher),
            None => meta.resource_version.hash(&mut hasher),
        }
        Some(Self {
            owner: ObjectRef::new(meta.namespace.as_deref()?, &*owner.name),
            owner_uid: owner.uid.clone(),
            uid: meta.uid.clone().unwrap_or_default(),
            version: hasher.finish(),
        })
    }
}

/// Progress of a Deployment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeploymentInfo {
    /// Its generation.
    pub generation: i64,
    /// The generation that its status is about.
    pub observed: i64,
    /// Desired pods.
    pub wanted: i32,
    /// Pods that exist.
    pub replicas: i32,
    /// Pods of the newest template.
    pub updated: i32,
    /// Pods that are ready.
    pub ready: i32,
    /// Pods that have been ready for long enough.
    pub available: i32,
    /// Why it is stuck, if it is.
    pub stuck: Option<String>,
}

impl DeploymentInfo {
    /// Projects a Deployment.
    #[must_use]
    pub fn of(deployment: &Deployment) -> Self {
        let status = deployment.status.clone().unwrap_or_default();
        let failing = |condition: &&k8s_openapi::api::apps::v1::DeploymentCondition| {
            condition.type_ == "ReplicaFailure" && condition.status == "True"
                || condition.type_ == "Progressing" && condition.status == "False"
        };
        let conditions = status.conditions.unwrap_or_default();
        // What the pods are refused for says more than that they are late.
        let stuck = conditions
            .iter()
            .filter(failing)
            .max_by_key(|condition| condition.type_ == "ReplicaFailure");
        Self {
            generation: deployment.metadata.generation.unwrap_or_default(),
            observed: status.observed_generation.unwrap_or_default(),
            wanted: deployment
                .spec
                .as_ref()
                .and_then(|spec| spec.replicas)
                .unwrap_or(1),
            replicas: status.replicas.unwrap_or_default(),
            updated: status.updated_replicas.unwrap_or_default(),
            ready: status.ready_replicas.unwrap_or_default(),
            available: status.available_replicas.unwrap_or_default(),
            stuck: stuck.and_then(|condition| condition.message.clone()),
        }
    }

    /// Returns whether exactly the desired pods exist, all of the newest template.
    #[must_use]
    pub fn rolled_out(&self) -> bool {
        self.observed >= self.generation
            && self.updated == self.wanted
            && self.replicas == self.wanted
            && self.available >= self.wanted
    }
}

/// A pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodInfo {
    /// The listener that it belongs to.
    pub listener: ObjectRef,
    /// Whether it is a worker.
    pub worker: bool,
    /// Its address, once it has one.
    pub ip: Option<String>,
    /// Whether it is ready.
    pub ready: bool,
    /// Whether it is being deleted.
    pub terminating: bool,
    /// Why it does not run, as the kubelet says it.
    pub waiting: Option<String>,
}

impl PodInfo {
    /// Projects a pod, where it is one of a listener.
    #[must_use]
    pub fn of(pod: &Pod) -> Option<Self> {
        let meta = &pod.metadata;
        let labels = meta.labels.as_ref()?;
        let listener = labels.get(INSTANCE)?;
        let status = pod.status.as_ref();
        let over = status
            .and_then(|status| status.phase.as_deref())
            .is_some_and(|phase| matches!(phase, "Succeeded" | "Failed"));
        let conditions = status.and_then(|status| status.conditions.as_ref());
        let mut containers = status.into_iter().flat_map(|status| {
            let statuses = status.container_statuses.iter().flatten();
            statuses.filter_map(|container| container.state.as_ref()?.waiting.as_ref())
        });
        let waiting = containers.find_map(|waiting| {
            let reason = waiting.reason.as_deref()?;
            (reason != "ContainerCreating" && reason != "PodInitializing")
                .then(|| reason.to_owned())
        });
        Some(Self {
            listener: ObjectRef::new(meta.namespace.as_deref()?, listener),
            worker: labels
                .get(NAME)
                .is_some_and(|program| program == WORKER_PROGRAM),
            ip: status
                .and_then(|status| status.pod_ip.clone())
                .filter(|_| !over),
            ready: conditions
                .into_iter()
                .flatten()
                .any(|condition| condition.type_ == "Ready" && condition.status == "True"),
            terminating: meta.deletion_timestamp.is_some(),
            waiting,
        })
    }
}
