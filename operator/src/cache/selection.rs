//! Which observers a listener selects, and all else that its reconcile starts from.

use std::collections::BTreeMap;
use std::sync::Arc;

use crds::resources::{NamespacesFrom, Observer, ObserverListener, consents};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::{Index, identity, owned_key};
use crate::cache::projection::{OwnedInfo, Parsed, PodInfo};
use crate::listener::build::Kind;
use crate::object_ref::ObjectRef;

/// The label that the API server gives every namespace: its name.
const NAMESPACE_NAME: &str = "kubernetes.io/metadata.name";

/// What comes of an observer that a listener chooses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Choice {
    /// The listener runs it.
    Selected,
    /// Its namespace does not let the listener run it.
    NotAllowed,
}

/// All that the reconcile of one listener starts from.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// The observers that it selects, in order of namespace and name.
    pub observers: Vec<Arc<Observer>>,
    /// Selected ones that cannot be read, with the reason.
    pub unreadable: Vec<(ObjectRef, String)>,
    /// Those that it would select if their namespaces allowed it. Nothing that they refer to is read.
    pub not_allowed: Vec<ObjectRef>,
    /// Whether labels of namespaces are known, by which they allow anything.
    pub labelled: bool,
    /// Labels of the namespaces of the selected observers.
    pub namespaces: BTreeMap<String, BTreeMap<String, String>>,
    /// Other listeners of the same identity.
    pub identity_conflicts: Vec<Arc<ObserverListener>>,
    /// Its objects. What has their names and is not its own is not among them.
    pub owned: BTreeMap<Kind, OwnedInfo>,
    /// Its pods.
    pub pods: Vec<(String, PodInfo)>,
    /// Whether there are pods for jobs, which are not among those.
    pub workers: bool,
    /// Whether its namespace is going away.
    pub terminating: bool,
}

impl Index {
    /// What the reconcile of a listener starts from.
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
            match self.choice(key, listener, observer, held.meta()) {
                Some(Choice::Selected) => {}
                Some(Choice::NotAllowed) => {
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

    /// An object of a listener, where it is that listener's own.
    pub(super) fn own(&self, kind: Kind, key: &ObjectRef, meta: &ObjectMeta) -> Option<&OwnedInfo> {
        let seen = self
            .owned
            .get(&(kind.watched_kind(), owned_key(kind, key)))?;
        (meta.uid.as_deref() == Some(&*seen.owner_uid)).then_some(seen)
    }

    /// Observers among which a listener chooses.
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

    /// Listeners that choose an observer with this metadata, and what comes of it.
    pub(super) fn choosing(
        &self,
        observer: &ObjectRef,
        meta: &ObjectMeta,
    ) -> Vec<(ObjectRef, Choice)> {
        self.listeners
            .iter()
            .filter_map(|(key, held)| match held {
                Parsed::Valid(listener) => {
                    let choice = self.choice(key, listener, observer, meta)?;
                    Some((key.clone(), choice))
                }
                Parsed::Invalid(_) => None,
            })
            .collect()
    }

    fn choice(
        &self,
        key: &ObjectRef,
        listener: &ObserverListener,
        observer: &ObjectRef,
        meta: &ObjectMeta,
    ) -> Option<Choice> {
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
            Choice::Selected
        } else {
            Choice::NotAllowed
        })
    }

    /// Whether namespaces are watched, as they are where the operator serves all of them.
    pub(super) fn knows_namespaces(&self) -> bool {
        !self.namespaces.is_empty()
    }

    /// Where namespaces are not watched, the one label is known that all of them have.
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

    /// Others of the same identity. It begins with the namespace, so those of other namespaces are
    /// none, whatever they say.
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
