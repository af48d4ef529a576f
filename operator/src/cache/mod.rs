//! What the API server was last seen to hold, as far as the operator cares, and whom a change
//! concerns.
//!
//! Nothing is kept that no decision reads. Each change answers with the work that it makes: what
//! it concerned before and what it concerns now. The watches in [`watcher`] feed it.

pub mod projection;
mod selection;
pub mod watcher;

use std::collections::{BTreeMap, BTreeSet, HashMap};

use crds::resources::{NamespacesFrom, Observer, ObserverListener};

use crate::cache::projection::{
    CachedObject, DeploymentInfo, NamespaceInfo, OwnedInfo, Parsed, PodInfo, SecretInfo,
    WatchedKind,
};
use crate::listener::build::Kind;
use crate::object_ref::{ObjectRef, ReconcileRequest};
use crate::observer::evaluation::ObserverEvaluation;

use selection::Choice;
pub use selection::Snapshot;

/// Everything that was seen.
#[derive(Debug, Default)]
pub struct Index {
    listeners: BTreeMap<ObjectRef, Parsed<ObserverListener>>,
    observers: BTreeMap<ObjectRef, Parsed<Observer>>,
    namespaces: BTreeMap<ObjectRef, NamespaceInfo>,
    secrets: BTreeMap<ObjectRef, SecretInfo>,
    deployments: BTreeMap<ObjectRef, DeploymentInfo>,
    pods: BTreeMap<ObjectRef, PodInfo>,
    owned: HashMap<(Kind, ObjectRef), OwnedInfo>,
    /// Which listeners read a Secret, as of their last reconcile.
    secret_readers: BTreeMap<ObjectRef, BTreeSet<ObjectRef>>,
    /// Which Secrets a listener reads, as of its last reconcile.
    secret_refs: BTreeMap<ObjectRef, BTreeSet<ObjectRef>>,
    /// What each listener says about the observers that it selects.
    evaluations: BTreeMap<ObjectRef, BTreeMap<ObjectRef, ObserverEvaluation>>,
}

impl Index {
    /// Notes that something is there, and as what.
    pub fn upsert(&mut self, key: ObjectRef, item: CachedObject) -> BTreeSet<ReconcileRequest> {
        match item {
            CachedObject::Listener(held) => self.upsert_listener(key, &held),
            CachedObject::Observer(held) => self.upsert_observer(key, &held),
            CachedObject::Namespace(seen) => self.upsert_namespace(key, Some(seen)),
            CachedObject::Secret(seen, owned) => {
                let mut work = self.upsert_owned(Kind::Secret, &key, owned);
                work.extend(self.upsert_secret(key, Some(&seen)));
                work
            }
            CachedObject::Deployment(seen, owned) => {
                let mut work = self.upsert_owned(Kind::Deployment, &key, owned);
                let before = self.deployments.insert(key.clone(), seen.clone());
                if before.as_ref() != Some(&seen)
                    && let Some(owned) = self.owned.get(&(Kind::Deployment, key))
                {
                    work.insert(ReconcileRequest::Listener(owned.owner.clone()));
                }
                work
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

    /// Notes that something is gone.
    pub fn remove(&mut self, what: WatchedKind, key: &ObjectRef) -> BTreeSet<ReconcileRequest> {
        match what {
            WatchedKind::Listener => {
                let before = self.listeners.remove(key);
                let mut work = self.concerned_by_listener(key, before.as_ref());
                work.insert(ReconcileRequest::Listener(key.clone()));
                work
            }
            WatchedKind::Observer => {
                let before = self.observers.remove(key);
                let mut work = self.choosing_work(key, before.as_ref());
                work.insert(ReconcileRequest::Observer(key.clone()));
                work
            }
            WatchedKind::Namespace => self.upsert_namespace(key.clone(), None),
            WatchedKind::Secret => {
                let mut work = self.upsert_owned(Kind::Secret, key, None);
                work.extend(self.upsert_secret(key.clone(), None));
                work
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

    /// Names of everything of a kind, in one namespace or in all.
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

    /// A listener.
    #[must_use]
    pub fn listener(&self, key: &ObjectRef) -> Option<Parsed<ObserverListener>> {
        self.listeners.get(key).cloned()
    }

    /// An observer.
    #[must_use]
    pub fn observer(&self, key: &ObjectRef) -> Option<Parsed<Observer>> {
        self.observers.get(key).cloned()
    }

    /// How many listeners and observers there are.
    #[must_use]
    pub fn counts(&self) -> (usize, usize) {
        (self.listeners.len(), self.observers.len())
    }

    /// What the listeners that choose an observer say about it; `None` for those that have not
    /// been looked at yet. Those that may not run it have nothing to say.
    #[must_use]
    pub fn evaluations(
        &self,
        observer: &ObjectRef,
    ) -> Vec<(ObjectRef, Option<ObserverEvaluation>)> {
        self.observers
            .get(observer)
            .into_iter()
            .flat_map(|held| self.choosing(observer, held.meta()))
            .map(|(listener, choice)| {
                let evaluation = match choice {
                    Choice::Selected => {
                        let evaluations = self.evaluations.get(&listener);
                        evaluations.and_then(|evaluations| evaluations.get(observer).cloned())
                    }
                    Choice::NotAllowed => {
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

    /// Keeps what a listener says about its observers, and answers with those that this concerns.
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

    /// Keeps which Secrets a listener reads.
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

    /// The Deployment of a listener.
    #[must_use]
    pub fn deployment(&self, listener: &ObjectRef) -> Option<DeploymentInfo> {
        self.deployment_of(Kind::Deployment, listener)
    }

    /// The Deployment of a listener's pods for jobs.
    #[must_use]
    pub fn workers(&self, listener: &ObjectRef) -> Option<DeploymentInfo> {
        self.deployment_of(Kind::Workers, listener)
    }

    fn deployment_of(&self, kind: Kind, listener: &ObjectRef) -> Option<DeploymentInfo> {
        let held = self.listeners.get(listener)?;
        self.own(kind, listener, held.meta())?;
        self.deployments.get(&owned_key(kind, listener)).cloned()
    }

    /// Whether any listener reads a Secret.
    #[must_use]
    pub fn is_referenced(&self, secret: &ObjectRef) -> bool {
        self.secret_readers.contains_key(secret)
    }

    /// The version of a Secret, where there is one.
    #[must_use]
    pub fn secret(&self, key: &ObjectRef) -> Option<SecretInfo> {
        self.secrets.get(key).cloned()
    }

    /// Notes what an owned object is now, ahead of the watch.
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
        let mut work = self.concerned_by_listener(&key, before.as_ref());
        work.extend(self.concerned_by_listener(&key, Some(held)));
        work.insert(ReconcileRequest::Listener(key));
        work
    }

    /// Others of the same identity: which of them is in the right may have changed.
    fn concerned_by_listener(
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
        let mut work = self.choosing_work(&key, before.as_ref());
        work.extend(self.choosing_work(&key, Some(held)));
        work.insert(ReconcileRequest::Observer(key));
        work
    }

    fn choosing_work(
        &self,
        key: &ObjectRef,
        held: Option<&Parsed<Observer>>,
    ) -> BTreeSet<ReconcileRequest> {
        held.into_iter()
            .flat_map(|held| self.choosing(key, held.meta()))
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

/// The name under which a listener keeps its progress.
#[must_use]
pub fn identity(key: &ObjectRef, listener: &ObserverListener) -> String {
    let given = listener.spec.identity.clone();
    given.unwrap_or_else(|| key.to_string())
}

/// Name of a listener's object of a kind.
#[must_use]
pub fn owned_key(kind: Kind, listener: &ObjectRef) -> ObjectRef {
    let name = match kind {
        Kind::Secret => crate::listener::build::bundle_name(&listener.name),
        Kind::Workers | Kind::WorkersBudget => crate::listener::build::workers_name(&listener.name),
        _ => crate::listener::build::object_name(&listener.name),
    };
    ObjectRef::new(&*listener.namespace, name)
}

#[cfg(test)]
mod tests;
