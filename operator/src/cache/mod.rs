//! Cache of the objects that the operator watches, with the indexes that its decisions need.
//!
//! It holds projections: of an object only what a decision reads. Each change returns the requests
//! that it makes necessary, for what the object concerned before and for what it concerns now. The
//! watches in [`watcher`] feed it, and so do reconciles with what the API server returned from their
//! writes, so that the next reconcile does not repeat a write that the watch has not shown yet.
//!
//! The stores of `kube::runtime::reflector` allow no such writes. Nor do they return the state before a
//! change, by which an observer that gets other labels concerns the listeners that selected it so far,
//! or tell which objects vanished while a watch was interrupted.

pub mod projection;
mod selection;
pub mod watcher;

use std::collections::{BTreeMap, BTreeSet, HashMap};

use crds::v1alpha1::{NamespacesFrom, Observer, ObserverListener};

use crate::cache::projection::{
    CachedObject, DeploymentInfo, NamespaceInfo, OwnedInfo, Parsed, PodInfo, SecretInfo,
    WatchedKind,
};
use crate::listener::build::Kind;
use crate::object_ref::{ObjectRef, ReconcileRequest};
use crate::observer::evaluation::ObserverEvaluation;

use selection::Selection;
pub use selection::Snapshot;

/// Cached objects and their indexes.
#[derive(Debug, Default)]
pub struct Index {
    listeners: BTreeMap<ObjectRef, Parsed<ObserverListener>>,
    observers: BTreeMap<ObjectRef, Parsed<Observer>>,
    namespaces: BTreeMap<ObjectRef, NamespaceInfo>,
    secrets: BTreeMap<ObjectRef, SecretInfo>,
    deployments: BTreeMap<ObjectRef, DeploymentInfo>,
    pods: BTreeMap<ObjectRef, PodInfo>,
    owned: HashMap<(Kind, ObjectRef), OwnedInfo>,
    /// Listeners that refer to a Secret, as of their last reconcile.
    secret_readers: BTreeMap<ObjectRef, BTreeSet<ObjectRef>>,
    /// Secrets that a listener refers to, as of its last reconcile.
    secret_refs: BTreeMap<ObjectRef, BTreeSet<ObjectRef>>,
    /// Evaluations of the observers that each listener selects.
    evaluations: BTreeMap<ObjectRef, BTreeMap<ObjectRef, ObserverEvaluation>>,
}

impl Index {
    /// Adds or updates an object.
    pub fn upsert(&mut self, key: ObjectRef, item: CachedObject) -> BTreeSet<ReconcileRequest> {
        match item {
            CachedObject::Listener(held) => self.upsert_listener(key, &held),
            CachedObject::Observer(held) => self.upsert_observer(key, &held),
            CachedObject::Namespace(seen) => self.upsert_namespace(key, Some(seen)),
            CachedObject::Secret(seen, owned) => {
                let mut requests = self.upsert_owned(Kind::Secret, &key, owned);
                requests.extend(self.upsert_secret(key, Some(&seen)));
                requests
            }
            CachedObject::Deployment(seen, owned) => {
                let mut requests = self.upsert_owned(Kind::Deployment, &key, owned);
                let before = self.deployments.insert(key.clone(), seen.clone());
                if before.as_ref() != Some(&seen)
                    && let Some(owned) = self.owned.get(&(Kind::Deployment, key))
                {
                    requests.insert(ReconcileRequest::Listener(owned.owner.clone()));
                }
                requests
            }
            CachedObject::Pod(seen) => {
                let owner = seen.listener.clone();
                let before = self.pods.insert(key, seen.clone());
                if before.as_ref() == Some(&seen) {
                    BTreeSet::new()
                } else {
                    [ReconcileRequest::Listener(owner)].into()
                }
            }
            CachedObject::Owned(kind, owned) => self.upsert_owned(kind, &key, owned),
        }
    }

    /// Removes an object.
    pub fn remove(&mut self, what: WatchedKind, key: &ObjectRef) -> BTreeSet<ReconcileRequest> {
        match what {
            WatchedKind::Listener => {
                let before = self.listeners.remove(key);
                let mut requests = self.requests_of_conflicts(key, before.as_ref());
                requests.insert(ReconcileRequest::Listener(key.clone()));
                requests
            }
            WatchedKind::Observer => {
                let before = self.observers.remove(key);
                let mut requests = self.requests_of_selectors(key, before.as_ref());
                requests.insert(ReconcileRequest::Observer(key.clone()));
                requests
            }
            WatchedKind::Namespace => self.upsert_namespace(key.clone(), None),
            WatchedKind::Secret => {
                let mut requests = self.upsert_owned(Kind::Secret, key, None);
                requests.extend(self.upsert_secret(key.clone(), None));
                requests
            }
            WatchedKind::Deployment => {
                self.deployments.remove(key);
                self.upsert_owned(Kind::Deployment, key, None)
            }
            WatchedKind::Pod => {
                let before = self.pods.remove(key);
                before
                    .map(|pod| ReconcileRequest::Listener(pod.listener))
                    .into_iter()
                    .collect()
            }
            WatchedKind::Owned(kind) => self.upsert_owned(kind, key, None),
        }
    }

    /// Returns references to all objects of a kind, in one namespace or in all.
    #[must_use]
    pub fn keys(&self, what: WatchedKind, namespace: Option<&str>) -> Vec<ObjectRef> {
        fn within<'a>(
            keys: impl Iterator<Item = &'a ObjectRef>,
            namespace: Option<&str>,
        ) -> Vec<ObjectRef> {
            keys.filter(|key| namespace.is_none_or(|namespace| key.namespace == namespace))
                .cloned()
                .collect()
        }
        match what {
            WatchedKind::Listener => within(self.listeners.keys(), namespace),
            WatchedKind::Observer => within(self.observers.keys(), namespace),
            WatchedKind::Namespace => within(self.namespaces.keys(), None),
            WatchedKind::Secret => within(self.secrets.keys(), namespace),
            WatchedKind::Deployment => within(self.deployments.keys(), namespace),
            WatchedKind::Pod => within(self.pods.keys(), namespace),
            WatchedKind::Owned(kind) => {
                let of_kind = self.owned.keys().filter(|(other, _)| *other == kind);
                within(of_kind.map(|(_, key)| key), namespace)
            }
        }
    }

    /// Returns a listener.
    #[must_use]
    pub fn listener(&self, key: &ObjectRef) -> Option<Parsed<ObserverListener>> {
        self.listeners.get(key).cloned()
    }

    /// Returns an observer.
    #[must_use]
    pub fn observer(&self, key: &ObjectRef) -> Option<Parsed<Observer>> {
        self.observers.get(key).cloned()
    }

    /// Returns the numbers of listeners and observers.
    #[must_use]
    pub fn counts(&self) -> (usize, usize) {
        (self.listeners.len(), self.observers.len())
    }

    /// Returns the evaluations of an observer by the listeners that select it; `None` for listeners
    /// that have not been reconciled yet.
    #[must_use]
    pub fn evaluations(
        &self,
        observer: &ObjectRef,
    ) -> Vec<(ObjectRef, Option<ObserverEvaluation>)> {
        self.observers
            .get(observer)
            .into_iter()
            .flat_map(|held| self.selecting(observer, held.meta()))
            .map(|(listener, selection)| {
                let evaluation = match selection {
                    Selection::Selected => {
                        let evaluations = self.evaluations.get(&listener);
                        evaluations.and_then(|evaluations| evaluations.get(observer).cloned())
                    }
                    Selection::NotAllowed => {
                        let labelled = self.knows_namespaces();
                        Some(ObserverEvaluation::not_allowed(
                            &listener, observer, labelled,
                        ))
                    }
                };
                (listener, evaluation)
            })
            .collect()
    }

    /// Stores a listener's evaluations, and returns requests for the observers whose changed.
    pub fn set_evaluations(
        &mut self,
        listener: &ObjectRef,
        evaluations: Option<BTreeMap<ObjectRef, ObserverEvaluation>>,
    ) -> BTreeSet<ReconcileRequest> {
        let before = match &evaluations {
            Some(evaluations) => self
                .evaluations
                .insert(listener.clone(), evaluations.clone()),
            None => self.evaluations.remove(listener),
        };
        let (before, now) = (before.unwrap_or_default(), evaluations.unwrap_or_default());
        before
            .keys()
            .chain(now.keys())
            .filter(|observer| before.get(*observer) != now.get(*observer))
            .map(|observer| ReconcileRequest::Observer(observer.clone()))
            .collect()
    }

    /// Stores which Secrets a listener refers to.
    pub fn set_secret_refs(&mut self, listener: &ObjectRef, secrets: BTreeSet<ObjectRef>) {
        for secret in self.secret_refs.remove(listener).unwrap_or_default() {
            if let Some(readers) = self.secret_readers.get_mut(&secret) {
                readers.remove(listener);
                if readers.is_empty() {
                    self.secret_readers.remove(&secret);
                }
            }
        }
        for secret in &secrets {
            let readers = self.secret_readers.entry(secret.clone()).or_default();
            readers.insert(listener.clone());
        }
        if !secrets.is_empty() {
            self.secret_refs.insert(listener.clone(), secrets);
        }
    }

    /// Returns the Deployment of a listener.
    #[must_use]
    pub fn deployment(&self, listener: &ObjectRef) -> Option<DeploymentInfo> {
        self.deployment_of(Kind::Deployment, listener)
    }

    /// Returns the Deployment of a listener's workers.
    #[must_use]
    pub fn workers(&self, listener: &ObjectRef) -> Option<DeploymentInfo> {
        self.deployment_of(Kind::Workers, listener)
    }

    fn deployment_of(&self, kind: Kind, listener: &ObjectRef) -> Option<DeploymentInfo> {
        let held = self.listeners.get(listener)?;
        self.own(kind, listener, held.meta())?;
        self.deployments.get(&owned_key(kind, listener)).cloned()
    }

    /// Returns whether a listener refers to a Secret.
    #[must_use]
    pub fn is_referenced(&self, secret: &ObjectRef) -> bool {
        self.secret_readers.contains_key(secret)
    }

    /// Returns the version of a Secret.
    #[must_use]
    pub fn secret(&self, key: &ObjectRef) -> Option<SecretInfo> {
        self.secrets.get(key).cloned()
    }

    /// Stores an owned object as it was returned from a write, ahead of the watch.
    pub fn record_applied(&mut self, kind: Kind, key: &ObjectRef, seen: OwnedInfo) {
        self.owned.insert((kind.watched_kind(), key.clone()), seen);
    }

    fn upsert_listener(
        &mut self,
        key: ObjectRef,
        held: &Parsed<ObserverListener>,
    ) -> BTreeSet<ReconcileRequest> {
        let later = self.listeners.get(&key);
        if later.is_some_and(|later| held.older_than(later)) {
            return BTreeSet::new();
        }
        let before = self.listeners.insert(key.clone(), held.clone());
        if before.as_ref().is_some_and(|before| before.same(held)) {
            return BTreeSet::new();
        }
        let mut requests = self.requests_of_conflicts(&key, before.as_ref());
        requests.extend(self.requests_of_conflicts(&key, Some(held)));
        requests.insert(ReconcileRequest::Listener(key));
        requests
    }

    /// Returns requests for others of the same identity: which of them is valid may have changed.
    fn requests_of_conflicts(
        &self,
        key: &ObjectRef,
        held: Option<&Parsed<ObserverListener>>,
    ) -> BTreeSet<ReconcileRequest> {
        let Some(Parsed::Valid(listener)) = held else {
            return BTreeSet::new();
        };
        self.identity_conflicts(key, &identity(key, listener))
            .iter()
            .map(|other_listener| {
                ReconcileRequest::Listener(ObjectRef::of(&other_listener.metadata))
            })
            .collect()
    }

    fn upsert_observer(
        &mut self,
        key: ObjectRef,
        held: &Parsed<Observer>,
    ) -> BTreeSet<ReconcileRequest> {
        let later = self.observers.get(&key);
        if later.is_some_and(|later| held.older_than(later)) {
            return BTreeSet::new();
        }
        let before = self.observers.insert(key.clone(), held.clone());
        if before.as_ref().is_some_and(|before| before.same(held)) {
            return BTreeSet::new();
        }
        let mut requests = self.requests_of_selectors(&key, before.as_ref());
        requests.extend(self.requests_of_selectors(&key, Some(held)));
        requests.insert(ReconcileRequest::Observer(key));
        requests
    }

    fn requests_of_selectors(
        &self,
        key: &ObjectRef,
        held: Option<&Parsed<Observer>>,
    ) -> BTreeSet<ReconcileRequest> {
        held.into_iter()
            .flat_map(|held| self.selecting(key, held.meta()))
            .map(|(listener, _)| ReconcileRequest::Listener(listener))
            .collect()
    }

    fn upsert_namespace(
        &mut self,
        key: ObjectRef,
        seen: Option<NamespaceInfo>,
    ) -> BTreeSet<ReconcileRequest> {
        let name = key.name.clone();
        let labels = |index: &Self| index.namespace_labels(&name);
        let (old, was) = (labels(self), self.terminating(&name));
        match seen {
            Some(seen) => self.namespaces.insert(key, seen),
            None => self.namespaces.remove(&key),
        };
        let (new, is) = (labels(self), self.terminating(&name));
        self.listeners
            .iter()
            .filter(|(listener, held)| match held {
                Parsed::Valid(valid) => {
                    let chosen = &valid.spec.observer_namespaces;
                    let own = &listener.namespace;
                    // The labels themselves are part of the bundle.
                    let fits = chosen.contain(&name, &old, own) || chosen.contain(&name, &new, own);
                    fits && old != new && chosen.from != NamespacesFrom::Same
                        || *own == name && was != is
                }
                Parsed::Invalid(_) => false,
            })
            .map(|(listener, _)| ReconcileRequest::Listener(listener.clone()))
            .collect()
    }

    fn upsert_secret(
        &mut self,
        key: ObjectRef,
        seen: Option<&SecretInfo>,
    ) -> BTreeSet<ReconcileRequest> {
        let readers = self.secret_readers.get(&key).cloned().unwrap_or_default();
        let before = match seen {
            Some(seen) => self.secrets.insert(key, seen.clone()),
            None => self.secrets.remove(&key),
        };
        if before.as_ref() == seen {
            return BTreeSet::new();
        }
        readers
            .into_iter()
            .map(ReconcileRequest::Listener)
            .collect()
    }

    fn upsert_owned(
        &mut self,
        kind: Kind,
        key: &ObjectRef,
        seen: Option<OwnedInfo>,
    ) -> BTreeSet<ReconcileRequest> {
        let entry = (kind, key.clone());
        let before = match &seen {
            Some(seen) => self.owned.insert(entry, seen.clone()),
            None => self.owned.remove(&entry),
        };
        if before == seen {
            return BTreeSet::new();
        }
        [before, seen]
            .into_iter()
            .flatten()
            .map(|seen| ReconcileRequest::Listener(seen.owner))
            .collect()
    }
}

/// Returns the name under which a listener stores its progress.
#[must_use]
pub fn identity(key: &ObjectRef, listener: &ObserverListener) -> String {
    let given = listener.spec.identity.clone();
    given.unwrap_or_else(|| key.to_string())
}

/// Returns the reference to a listener's object of a kind.
#[must_use]
pub fn owned_key(kind: Kind, listener: &ObjectRef) -> ObjectRef {
    let name = match kind {
        Kind::Secret => crate::listener::build::bundle_name(&listener.name),
        Kind::BundlePart(part) => {
            let first = crate::listener::build::bundle_name(&listener.name);
            crds::bundle::part_name(&first, part.into())
        }
        Kind::Workers | Kind::WorkersBudget => crate::listener::build::workers_name(&listener.name),
        _ => crate::listener::build::object_name(&listener.name),
    };
    ObjectRef::new(&*listener.namespace, name)
}

#[cfg(test)]
mod tests;
