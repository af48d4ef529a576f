//! Selection of observers by listeners, and the input of a listener's reconcile.

use std::collections::BTreeMap;
use std::sync::Arc;

use crds::v1alpha1::{NamespacesFrom, Observer, ObserverListener, consents};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::{Index, identity, owned_key};
use crate::cache::projection::{OwnedInfo, Parsed, PodInfo};
use crate::listener::build::Kind;
use crate::object_ref::ObjectRef;

/// The label that the API server gives every namespace: its name.
const NAMESPACE_NAME: &str = "kubernetes.io/metadata.name";

/// Result of selecting an observer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Selection {
    /// The listener runs it.
    Selected,
    /// Its namespace does not allow the listener.
    NotAllowed,
}

/// Input of a listener's reconcile.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// Observers that it selects, in order of namespace and name.
    pub observers: Vec<Arc<Observer>>,
    /// Selected observers that do not parse, with the error.
    pub unreadable: Vec<(ObjectRef, String)>,
    /// Observers that it would select if their namespaces allowed it. Nothing that they refer to is read.
    pub not_allowed: Vec<ObjectRef>,
    /// Whether labels of namespaces are known.
    pub labelled: bool,
    /// Labels of the namespaces of the selected observers.
    pub namespaces: BTreeMap<String, BTreeMap<String, String>>,
    /// Other listeners of the same identity.
    pub identity_conflicts: Vec<Arc<ObserverListener>>,
    /// Objects that it owns.
    pub owned: BTreeMap<Kind, OwnedInfo>,
    /// Its pods without workers.
    pub pods: Vec<(String, PodInfo)>,
    /// Whether it has workers.
    pub workers: bool,
    /// Whether its namespace is being deleted.
    pub terminating: bool,
}

impl Index {
    /// Returns the input of a listener's reconcile.
    #[must_use]
    pub fn snapshot(&self, key: &ObjectRef, listener: &ObserverListener) -> Snapshot {
        let mut snapshot = Snapshot {
            observers: Vec::new(),
            unreadable: Vec::new(),
            not_allowed: Vec::new(),
            labelled: self.knows_namespaces(),
            namespaces: BTreeMap::new(),
            identity_conflicts: self.identity_conflicts(key, &identity(key, listener)),
            owned: BTreeMap::new(),
            pods: Vec::new(),
            workers: false,
            terminating: self.terminating(&key.namespace),
        };
        for (observer, held) in self.candidates(key, listener) {
            match self.select(key, listener, observer, held.meta()) {
                Some(Selection::Selected) => {}
                Some(Selection::NotAllowed) => {
                    snapshot.not_allowed.push(observer.clone());
                    continue;
                }
                None => continue,
            }
            match held {
                Parsed::Valid(valid) => snapshot.observers.push(valid.clone()),
                Parsed::Invalid(invalid) => snapshot
                    .unreadable
                    .push((observer.clone(), invalid.error.clone())),
            }
            snapshot
                .namespaces
                .entry(observer.namespace.clone())
                .or_insert_with(|| self.namespace_labels(&observer.namespace));
        }
        for kind in Kind::ALL {
            if let Some(seen) = self.own(kind, key, &listener.metadata) {
                snapshot.owned.insert(kind, seen.clone());
            }
        }
        let pods = self.pods.range(ObjectRef::new(&*key.namespace, "")..);
        let own = pods
            .take_while(|(pod, _)| pod.namespace == key.namespace)
            .filter(|(_, seen)| seen.listener == *key);
        for (pod, seen) in own {
            if seen.worker {
                snapshot.workers = true;
            } else {
                snapshot.pods.push((pod.name.clone(), seen.clone()));
            }
        }
        snapshot
    }

    /// Returns an object of a listener, where the listener owns it.
    pub(super) fn own(&self, kind: Kind, key: &ObjectRef, meta: &ObjectMeta) -> Option<&OwnedInfo> {
        let seen = self
            .owned
            .get(&(kind.watched_kind(), owned_key(kind, key)))?;
        (meta.uid.as_deref() == Some(&*seen.owner_uid)).then_some(seen)
    }

    /// Returns the observers among which a listener selects.
    fn candidates(
        &self,
        key: &ObjectRef,
        listener: &ObserverListener,
    ) -> impl Iterator<Item = (&ObjectRef, &Parsed<Observer>)> {
        let same = listener.spec.observer_namespaces.from == NamespacesFrom::Same;
        let from = if same {
            ObjectRef::new(&*key.namespace, "")
        } else {
            ObjectRef::new("", "")
        };
        let own = key.namespace.clone();
        self.observers
            .range(from..)
            .take_while(move |(observer, _)| !same || observer.namespace == own)
    }

    /// Returns the listeners whose selectors match an observer with this metadata.
    pub(super) fn selecting(
        &self,
        observer: &ObjectRef,
        meta: &ObjectMeta,
    ) -> Vec<(ObjectRef, Selection)> {
        self.listeners
            .iter()
            .filter_map(|(key, held)| match held {
                Parsed::Valid(listener) => {
                    let selection = self.select(key, listener, observer, meta)?;
                    Some((key.clone(), selection))
                }
                Parsed::Invalid(_) => None,
            })
            .collect()
    }

    fn select(
        &self,
        key: &ObjectRef,
        listener: &ObserverListener,
        observer: &ObjectRef,
        meta: &ObjectMeta,
    ) -> Option<Selection> {
        let none = BTreeMap::new();
        let labels = meta.labels.as_ref().unwrap_or(&none);
        let (spec, own) = (&listener.spec, &key.namespace);
        let chosen = spec.observer_selector.as_ref();
        if listener.metadata.deletion_timestamp.is_some()
            || meta.deletion_timestamp.is_some()
            || chosen.is_some_and(|selector| !selector.matches(labels))
        {
            return None;
        }
        let around = self.namespace_labels(&observer.namespace);
        if !spec
            .observer_namespaces
            .contain(&observer.namespace, &around, own)
        {
            return None;
        }
        Some(if consents(&observer.namespace, &around, own) {
            Selection::Selected
        } else {
            Selection::NotAllowed
        })
    }

    /// Returns whether namespaces are watched, as they are where the operator serves all of them.
    pub(super) fn knows_namespaces(&self) -> bool {
        !self.namespaces.is_empty()
    }

    /// Returns the labels of a namespace. Where namespaces are not watched, it is the one label that all
    /// of them have.
    pub(super) fn namespace_labels(&self, name: &str) -> BTreeMap<String, String> {
        self.namespaces.get(&ObjectRef::new("", name)).map_or_else(
            || BTreeMap::from([(NAMESPACE_NAME.to_owned(), name.to_owned())]),
            |seen| seen.labels.clone(),
        )
    }

    pub(super) fn terminating(&self, name: &str) -> bool {
        let seen = self.namespaces.get(&ObjectRef::new("", name));
        seen.is_some_and(|seen| seen.terminating)
    }

    /// Returns other listeners of the same identity. An identity begins with the namespace, so
    /// listeners of other namespaces never conflict.
    pub(super) fn identity_conflicts(
        &self,
        key: &ObjectRef,
        wanted: &str,
    ) -> Vec<Arc<ObserverListener>> {
        self.listeners
            .range(ObjectRef::new(&*key.namespace, "")..)
            .take_while(|(other, _)| other.namespace == key.namespace)
            .filter(|(other, _)| *other != key)
            .filter_map(|(other, held)| match held {
                Parsed::Valid(listener) if identity(other, listener) == wanted => {
                    Some(listener.clone())
                }
                _ => None,
            })
            .collect()
    }
}
