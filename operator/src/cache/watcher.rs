//! Watches that keep the index up to date: one task for each kind and namespace.
//!
//! Objects are projected to what the index holds as soon as they arrive. The watches of Secrets and
//! of all owned objects but Deployments carry metadata only. A watch that fails is started again with
//! a backoff, and objects that vanished meanwhile are removed.

use std::collections::{BTreeSet, HashSet};
use std::fmt::Debug;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::{Stream, StreamExt};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Namespace, Pod, Secret, Service, ServiceAccount};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::api::rbac::v1::{Role, RoleBinding};
use kube::core::{DeserializeGuard, NamespaceResourceScope, PartialObjectMeta};
use kube::runtime::watcher::{self, Config, Event};
use kube::runtime::{WatchStreamExt, watcher as watch};
use kube::{Api, Client, Resource};
use serde::de::DeserializeOwned;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::cache::Index;
use crate::cache::projection::{
    CachedObject, CustomResource, DeploymentInfo, NamespaceInfo, OwnedInfo, Parsed, PodInfo,
    SecretInfo, WatchedKind,
};
use crate::listener::build::{FIELD_MANAGER, Kind, MANAGED_BY};
use crate::object_ref::{ObjectRef, ReconcileRequest};

/// Objects in a page of a list, which are held in memory until they are projected.
const PAGE: u32 = 100;

/// Capacity of the channel to the controller.
pub const PENDING_CHANGES: usize = 256;

/// Shortest time between two log lines about a watch that fails.
const LOG_INTERVAL: Duration = Duration::from_mins(1);

/// A watch ended, although watches never should.
#[derive(Debug, thiserror::Error)]
#[error("the watch of {0:?} has ended")]
pub struct WatchEnded(WatchedKind);

/// Where watches write to.
#[derive(Clone, Debug)]
pub struct CacheWriter {
    /// The index.
    pub index: Arc<Mutex<Index>>,
    /// Requests to the controller.
    pub changes: mpsc::Sender<BTreeSet<ReconcileRequest>>,
}

/// Running watches.
#[derive(Debug)]
pub struct Watches {
    tasks: JoinSet<Result<(), WatchEnded>>,
    listed: Vec<CancellationToken>,
}

impl Watches {
    /// Starts watches in these namespaces, or in all where none is given.
    #[must_use]
    pub fn start(client: &Client, namespaces: &[String], writer: &CacheWriter) -> Self {
        let mut watches = Self {
            tasks: JoinSet::new(),
            listed: Vec::new(),
        };
        if namespaces.is_empty() {
            let api: Api<Namespace> = Api::all(client.clone());
            let stream = watch(api, config()).map(project(|namespace: Namespace| {
                Some(CachedObject::Namespace(NamespaceInfo::of(&namespace)))
            }));
            watches.spawn_watch(WatchedKind::Namespace, None, stream, writer);
            watches.watch_scope(client, None, writer);
        }
        for namespace in namespaces {
            watches.watch_scope(client, Some(namespace), writer);
        }
        watches
    }

    /// Waits until every watch has listed its objects once.
    pub async fn all_listed(&self) {
        for listed in &self.listed {
            listed.cancelled().await;
        }
    }

    /// Waits for a watch to end, and returns why.
    pub async fn ended(&mut self) -> anyhow::Error {
        match self.tasks.join_next().await {
            Some(Ok(Ok(()))) | None => anyhow::anyhow!("the watches have ended"),
            Some(Ok(Err(error))) => error.into(),
            Some(Err(error)) => error.into(),
        }
    }

    fn watch_scope(&mut self, client: &Client, namespace: Option<&str>, writer: &CacheWriter) {
        self.custom(
            WatchedKind::Listener,
            CachedObject::Listener,
            client,
            namespace,
            writer,
        );
        self.custom(
            WatchedKind::Observer,
            CachedObject::Observer,
            client,
            namespace,
            writer,
        );
        let api: Api<PartialObjectMeta<Secret>> = scoped(client, namespace);
        let stream = watch(api, config()).map(project(|secret: PartialObjectMeta<Secret>| {
            let meta = &secret.metadata;
            Some(CachedObject::Secret(
                SecretInfo::of(meta),
                OwnedInfo::of(meta),
            ))
        }));
        self.spawn_watch(WatchedKind::Secret, namespace, stream, writer);
        let api: Api<Deployment> = scoped(client, namespace);
        let stream = watch(api, managed()).map(project(|deployment: Deployment| {
            let owned = OwnedInfo::of(&deployment.metadata);
            Some(CachedObject::Deployment(
                DeploymentInfo::of(&deployment),
                owned,
            ))
        }));
        self.spawn_watch(WatchedKind::Deployment, namespace, stream, writer);
        let api: Api<Pod> = scoped(client, namespace);
        let stream = watch(api, managed()).map(project(|pod: Pod| {
            Some(CachedObject::Pod(PodInfo::of(&pod)?))
        }));
        self.spawn_watch(WatchedKind::Pod, namespace, stream, writer);
        self.owned::<ServiceAccount>(Kind::ServiceAccount, client, namespace, writer);
        self.owned::<Role>(Kind::Role, client, namespace, writer);
        self.owned::<RoleBinding>(Kind::RoleBinding, client, namespace, writer);
        self.owned::<Service>(Kind::Service, client, namespace, writer);
        self.owned::<NetworkPolicy>(Kind::NetworkPolicy, client, namespace, writer);
        self.owned::<PodDisruptionBudget>(Kind::PodDisruptionBudget, client, namespace, writer);
    }

    fn custom<K: CustomResource>(
        &mut self,
        what: WatchedKind,
        item: fn(Parsed<K>) -> CachedObject,
        client: &Client,
        namespace: Option<&str>,
        writer: &CacheWriter,
    ) {
        let api: Api<DeserializeGuard<K>> = scoped(client, namespace);
        let stream = watch(api, config()).map(project(move |object: DeserializeGuard<K>| {
            Some(item(object.into()))
        }));
        self.spawn_watch(what, namespace, stream, writer);
    }

    fn owned<K>(
        &mut self,
        kind: Kind,
        client: &Client,
        namespace: Option<&str>,
        writer: &CacheWriter,
    ) where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
            + Clone
            + Debug
            + DeserializeOwned
            + Send
            + 'static,
    {
        let api: Api<PartialObjectMeta<K>> = scoped(client, namespace);
        let stream = watch(api, managed()).map(project(move |object: PartialObjectMeta<K>| {
            Some(CachedObject::Owned(kind, OwnedInfo::of(&object.metadata)))
        }));
        self.spawn_watch(WatchedKind::Owned(kind), namespace, stream, writer);
    }

    fn spawn_watch(
        &mut self,
        what: WatchedKind,
        namespace: Option<&str>,
        stream: impl Stream<Item = watcher::Result<Event<Projection>>> + Send + 'static,
        writer: &CacheWriter,
    ) {
        let listed = CancellationToken::new();
        self.listed.push(listed.clone());
        let task = WatchTask {
            what,
            namespace: namespace.map(ToOwned::to_owned),
            writer: writer.clone(),
            seen: HashSet::new(),
            listed,
        };
        self.tasks.spawn(task.run(stream.default_backoff()));
    }
}

/// Reference and projection of an object; no projection where it is not cached.
type Projection = (ObjectRef, Option<CachedObject>);

fn project<K: Resource>(
    keep: impl Fn(K) -> Option<CachedObject>,
) -> impl FnMut(watcher::Result<Event<K>>) -> watcher::Result<Event<Projection>> {
    move |event| {
        let projection = |object: K| (ObjectRef::of(object.meta()), keep(object));
        Ok(match event? {
            Event::Apply(object) => Event::Apply(projection(object)),
            Event::InitApply(object) => Event::InitApply(projection(object)),
            Event::Delete(object) => Event::Delete((ObjectRef::of(object.meta()), None)),
            Event::Init => Event::Init,
            Event::InitDone => Event::InitDone,
        })
    }
}

struct WatchTask {
    what: WatchedKind,
    namespace: Option<String>,
    writer: CacheWriter,
    /// Objects in the list in progress.
    seen: HashSet<ObjectRef>,
    listed: CancellationToken,
}

impl WatchTask {
    async fn run(
        mut self,
        stream: impl Stream<Item = watcher::Result<Event<Projection>>> + Send,
    ) -> Result<(), WatchEnded> {
        let mut stream = pin!(stream);
        let mut logged: Option<tokio::time::Instant> = None;
        while let Some(event) = stream.next().await {
            let requests = match event {
                Ok(event) => self.handle(event),
                Err(error) => {
                    let what = self.what;
                    if logged.is_none_or(|logged| logged.elapsed() > LOG_INTERVAL) {
                        tracing::warn!(?what, %error, "watch failed; retrying (if it is forbidden, see the operator's roles)");
                        logged = Some(tokio::time::Instant::now());
                    }
                    continue;
                }
            };
            // The controller has ended.
            if !requests.is_empty() && self.writer.changes.send(requests).await.is_err() {
                return Ok(());
            }
        }
        Err(WatchEnded(self.what))
    }

    fn handle(&mut self, event: Event<Projection>) -> BTreeSet<ReconcileRequest> {
        let mut index = self
            .writer
            .index
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        match event {
            Event::Init => {
                self.seen.clear();
                BTreeSet::new()
            }
            Event::InitApply((key, item)) => {
                self.seen.insert(key.clone());
                item.map(|item| index.upsert(key, item)).unwrap_or_default()
            }
            Event::Apply((key, Some(item))) => index.upsert(key, item),
            Event::Apply((key, None)) | Event::Delete((key, _)) => index.remove(self.what, &key),
            Event::InitDone => {
                let known = index.keys(self.what, self.namespace.as_deref());
                let seen = std::mem::take(&mut self.seen);
                self.listed.cancel();
                known
                    .iter()
                    .filter(|key| !seen.contains(*key))
                    .flat_map(|key| index.remove(self.what, key))
                    .collect()
            }
        }
    }
}

fn scoped<K>(client: &Client, namespace: Option<&str>) -> Api<K>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
{
    match namespace {
        Some(namespace) => Api::namespaced(client.clone(), namespace),
        None => Api::all(client.clone()),
    }
}

fn config() -> Config {
    Config::default().page_size(PAGE)
}

/// Watches only objects that carry the operator's label.
fn managed() -> Config {
    config().labels(&format!("{MANAGED_BY}={FIELD_MANAGER}"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]

    use super::*;

    fn task(namespace: Option<&str>) -> WatchTask {
        WatchTask {
            what: WatchedKind::Pod,
            namespace: namespace.map(ToOwned::to_owned),
            writer: CacheWriter {
                index: Arc::default(),
                changes: mpsc::channel(1).0,
            },
            seen: HashSet::new(),
            listed: CancellationToken::new(),
        }
    }

    fn pod(namespace: &str, name: &str) -> Projection {
        let labels = serde_json::json!({ "app.kubernetes.io/instance": "shop" });
        let metadata = serde_json::json!({
            "namespace": namespace, "name": name, "labels": labels,
        });
        let pod: Pod = serde_json::from_value(serde_json::json!({ "metadata": metadata })).unwrap();
        let projection = PodInfo::of(&pod).unwrap();
        let key = ObjectRef::new(namespace, name);
        (key, Some(CachedObject::Pod(projection)))
    }

    fn pods(task: &WatchTask) -> Vec<String> {
        let keys = task.writer.index.lock().unwrap();
        let keys = keys.keys(WatchedKind::Pod, None);
        keys.iter().map(ToString::to_string).collect()
    }

    /// What was deleted while a watch was interrupted is missing from the list that follows.
    #[test]
    fn list_after_an_interruption_removes_what_vanished() {
        let mut task = task(Some("web"));
        for object in [pod("web", "a"), pod("web", "b"), pod("other", "c")] {
            task.handle(Event::Apply(object));
        }
        assert!(task.handle(Event::Init).is_empty());
        // Nothing is removed before the list is complete.
        assert!(task.handle(Event::InitApply(pod("web", "a"))).is_empty());
        assert_eq!(pods(&task), ["other/c", "web/a", "web/b"]);
        assert!(!task.listed.is_cancelled());
        let requests = task.handle(Event::InitDone);
        let shop = ReconcileRequest::Listener(ObjectRef::new("web", "shop"));
        assert_eq!(requests, [shop].into());
        assert_eq!(pods(&task), ["other/c", "web/a"]);
        assert!(task.listed.is_cancelled());
    }
}
