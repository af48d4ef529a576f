//! Which observers a listener selects, and all else that its reconcile starts from.

use std::collections::BTreeMap;
use std::sync::Arc;

use crds::resources::{NamespacesFrom, Observer, ObserverListener};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::{Index, identity, owned_key};
use crate::build::Kind;
use crate::key::Key;
use crate::seen::{Held, PodSeen};

/// The label that the API server gives every namespace: its name.
const NAMESPACE_NAME: &str = "kubernetes.io/metadata.name";

/// All that the reconcile of one listener starts from.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// The observers that it selects, in order of namespace and name.
    pub observers: Vec<Arc<Observer>>,
    /// Selected ones that cannot be read, with the reason.
    pub unreadable: Vec<(Key, String)>,
    /// Labels of the namespaces of those observers.
    pub namespaces: BTreeMap<String, BTreeMap<String, String>>,
    /// Other listeners of the same identity.
    pub rivals: Vec<Arc<ObserverListener>>,
    /// Versions of its objects.
    pub owned: BTreeMap<Kind, u64>,
    /// Its pods.
    pub pods: Vec<(String, PodSeen)>,
    /// Whether there are pods for jobs, which are not among those.
    pub workers: bool,
    /// Whether its namespace is going away.
    pub terminating: bool,
}

impl Index {
    /// What the reconcile of a listener starts from.
    #[must_use]
    pub fn snapshot(&self, key: &Key, listener: &ObserverListener) -> Snapshot {
        let mut snapshot = Snapshot {
            observers: Vec::new(),
            unreadable: Vec::new(),
            namespaces: BTreeMap::new(),
            rivals: self.rivals(key, &identity(key, listener)),
            owned: BTreeMap::new(),
            pods: Vec::new(),
            workers: false,
            terminating: self.terminating(&key.namespace),
        };
        for (observer, held) in self.candidates(key, listener) {
            if !self.selects(key, listener, observer, held.meta()) {
                continue;
            }
            match held {
                Held::Right(right) => snapshot.observers.push(right.clone()),
                Held::Wrong(wrong) => snapshot
                    .unreadable
                    .push((observer.clone(), wrong.why.clone())),
            }
            snapshot
                .namespaces
                .entry(observer.namespace.clone())
                .or_insert_with(|| self.namespace_labels(&observer.namespace));
        }
        for kind in Kind::ALL {
            let name = owned_key(kind, key);
            if let Some(seen) = self.owned.get(&(kind.watched(), name)) {
                snapshot.owned.insert(kind, seen.version);
            }
        }
        let pods = self.pods.range(Key::new(&*key.namespace, "")..);
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

    /// Observers among which a listener chooses.
    fn candidates(
        &self,
        key: &Key,
        listener: &ObserverListener,
    ) -> impl Iterator<Item = (&Key, &Held<Observer>)> {
        let same = listener.spec.observer_namespaces.from == NamespacesFrom::Same;
        let from = if same {
            Key::new(&*key.namespace, "")
        } else {
            Key::new("", "")
        };
        let own = key.namespace.clone();
        self.observers
            .range(from..)
            .take_while(move |(observer, _)| !same || observer.namespace == own)
    }

    /// Listeners that select an observer with this metadata.
    pub(super) fn selecting(&self, observer: &Key, meta: &ObjectMeta) -> Vec<Key> {
        self.listeners
            .iter()
            .filter(|(key, held)| match held {
                Held::Right(listener) => self.selects(key, listener, observer, meta),
                Held::Wrong(_) => false,
            })
            .map(|(key, _)| key.clone())
            .collect()
    }

    fn selects(
        &self,
        key: &Key,
        listener: &ObserverListener,
        observer: &Key,
        meta: &ObjectMeta,
    ) -> bool {
        let none = BTreeMap::new();
        let labels = meta.labels.as_ref().unwrap_or(&none);
        let spec = &listener.spec;
        let chosen = spec.observer_selector.as_ref();
        listener.metadata.deletion_timestamp.is_none()
            && meta.deletion_timestamp.is_none()
            && chosen.is_none_or(|selector| selector.matches(labels))
            && spec.observer_namespaces.contain(
                &observer.namespace,
                &self.namespace_labels(&observer.namespace),
                &key.namespace,
            )
    }

    /// Where namespaces are not watched, the one label is known that all of them have.
    pub(super) fn namespace_labels(&self, name: &str) -> BTreeMap<String, String> {
        self.namespaces.get(&Key::new("", name)).map_or_else(
            || BTreeMap::from([(NAMESPACE_NAME.to_owned(), name.to_owned())]),
            |seen| seen.labels.clone(),
        )
    }

    pub(super) fn terminating(&self, name: &str) -> bool {
        let seen = self.namespaces.get(&Key::new("", name));
        seen.is_some_and(|seen| seen.terminating)
    }

    pub(super) fn rivals(&self, key: &Key, wanted: &str) -> Vec<Arc<ObserverListener>> {
        self.listeners
            .iter()
            .filter(|(other, _)| *other != key)
            .filter_map(|(other, held)| match held {
                Held::Right(listener) if identity(other, listener) == wanted => {
                    Some(listener.clone())
                }
                _ => None,
            })
            .collect()
    }
}
