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
    DeploymentSeen, Item, NamespaceSeen, OwnedSeen, Parsed, PodSeen, SecretSeen, What,
};
use crate::listener::build::Kind;
use crate::object_ref::{Key, Work};
use crate::observer::evaluation::Verdict;

use selection::Choice;
pub use selection::Snapshot;

/// Everything that was seen.
#[derive(Debug, Default)]
pub struct Index {
    listeners: BTreeMap<Key, Parsed<ObserverListener>>,
    observers: BTreeMap<Key, Parsed<Observer>>,
    namespaces: BTreeMap<Key, NamespaceSeen>,
    secrets: BTreeMap<Key, SecretSeen>,
    deployments: BTreeMap<Key, DeploymentSeen>,
    pods: BTreeMap<Key, PodSeen>,
    owned: HashMap<(Kind, Key), OwnedSeen>,
    /// Which listeners read a Secret, as of their last reconcile.
    readers: BTreeMap<Key, BTreeSet<Key>>,
    /// Which Secrets a listener reads, as of its last reconcile.
    reads: BTreeMap<Key, BTreeSet<Key>>,
    /// What each listener says about the observers that it selects.
    verdicts: BTreeMap<Key, BTreeMap<Key, Verdict>>,
}

impl Index {
    /// Notes that something is there, and as what.
    pub fn put(&mut self, key: Key, item: Item) -> BTreeSet<Work> {
        match item {
            Item::Listener(held) => self.put_listener(key, &held),
            Item::Observer(held) => self.put_observer(key, &held),
            Item::Namespace(seen) => self.put_namespace(key, Some(seen)),
            Item::Secret(seen, owned) => {
                let mut work = self.put_owned(Kind::Secret, &key, owned);
                work.extend(self.put_secret(key, Some(&seen)));
                work
            }
            Item::Deployment(seen, owned) => {
                let mut work = self.put_owned(Kind::Deployment, &key, owned);
                let before = self.deployments.insert(key.clone(), seen.clone());
                if before.as_ref() != Some(&seen)
                    && let Some(owned) = self.owned.get(&(Kind::Deployment, key))
                {
                    work.insert(Work::Listener(owned.owner.clone()));
                }
                work
            }
            Item::Pod(seen) => {
                let owner = seen.listener.clone();
                let before = self.pods.insert(key, seen.clone());
                if before.as_ref() == Some(&seen) {
                    BTreeSet::new()
                } else {
                    [Work::Listener(owner)].into()
                }
            }
            Item::Owned(kind, owned) => self.put_owned(kind, &key, owned),
        }
    }

    /// Notes that something is gone.
    pub fn remove(&mut self, what: What, key: &Key) -> BTreeSet<Work> {
        match what {
            What::Listener => {
                let before = self.listeners.remove(key);
                let mut work = self.concerned_by_listener(key, before.as_ref());
                work.insert(Work::Listener(key.clone()));
                work
            }
            What::Observer => {
                let before = self.observers.remove(key);
                let mut work = self.choosing_work(key, before.as_ref());
                work.insert(Work::Observer(key.clone()));
                work
            }
            What::Namespace => self.put_namespace(key.clone(), None),
            What::Secret => {
                let mut work = self.put_owned(Kind::Secret, key, None);
                work.extend(self.put_secret(key.clone(), None));
                work
            }
            What::Deployment => {
                self.deployments.remove(key);
                self.put_owned(Kind::Deployment, key, None)
            }
            What::Pod => {
                let before = self.pods.remove(key);
                before
                    .map(|pod| Work::Listener(pod.listener))
                    .into_iter()
                    .collect()
            }
            What::Owned(kind) => self.put_owned(kind, key, None),
        }
    }

    /// Names of everything of a kind, in one namespace or in all.
    #[must_use]
    pub fn keys(&self, what: What, namespace: Option<&str>) -> Vec<Key> {
        fn within<'a>(keys: impl Iterator<Item = &'a Key>, namespace: Option<&str>) -> Vec<Key> {
            keys.filter(|key| namespace.is_none_or(|namespace| key.namespace == namespace))
                .cloned()
                .collect()
        }
        match what {
            What::Listener => within(self.listeners.keys(), namespace),
            What::Observer => within(self.observers.keys(), namespace),
            What::Namespace => within(self.namespaces.keys(), None),
            What::Secret => within(self.secrets.keys(), namespace),
            What::Deployment => within(self.deployments.keys(), namespace),
            What::Pod => within(self.pods.keys(), namespace),
            What::Owned(kind) => {
                let of_kind = self.owned.keys().filter(|(other, _)| *other == kind);
                within(of_kind.map(|(_, key)| key), namespace)
            }
        }
    }

    /// A listener.
    #[must_use]
    pub fn listener(&self, key: &Key) -> Option<Parsed<ObserverListener>> {
        self.listeners.get(key).cloned()
    }

    /// An observer.
    #[must_use]
    pub fn observer(&self, key: &Key) -> Option<Parsed<Observer>> {
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
    pub fn verdicts(&self, observer: &Key) -> Vec<(Key, Option<Verdict>)> {
        self.observers
            .get(observer)
            .into_iter()
            .flat_map(|held| self.choosing(observer, held.meta()))
            .map(|(listener, choice)| {
                let verdict = match choice {
                    Choice::Selected => {
                        let verdicts = self.verdicts.get(&listener);
                        verdicts.and_then(|verdicts| verdicts.get(observer).cloned())
                    }
                    Choice::NotAllowed => {
                        let labelled = self.knows_namespaces();
                        Some(Verdict::not_allowed(&listener, observer, labelled))
                    }
                };
                (listener, verdict)
            })
            .collect()
    }

    /// Keeps what a listener says about its observers, and answers with those that this concerns.
    pub fn judge(
        &mut self,
        listener: &Key,
        verdicts: Option<BTreeMap<Key, Verdict>>,
    ) -> BTreeSet<Work> {
        let before = match &verdicts {
            Some(verdicts) => self.verdicts.insert(listener.clone(), verdicts.clone()),
            None => self.verdicts.remove(listener),
        };
        let (before, now) = (before.unwrap_or_default(), verdicts.unwrap_or_default());
        before
            .keys()
            .chain(now.keys())
            .filter(|observer| before.get(*observer) != now.get(*observer))
            .map(|observer| Work::Observer(observer.clone()))
            .collect()
    }

    /// Keeps which Secrets a listener reads.
    pub fn reads(&mut self, listener: &Key, secrets: BTreeSet<Key>) {
        for secret in self.reads.remove(listener).unwrap_or_default() {
            if let Some(readers) = self.readers.get_mut(&secret) {
                readers.remove(listener);
                if readers.is_empty() {
                    self.readers.remove(&secret);
                }
            }
        }
        for secret in &secrets {
            let readers = self.readers.entry(secret.clone()).or_default();
            readers.insert(listener.clone());
        }
        if !secrets.is_empty() {
            self.reads.insert(listener.clone(), secrets);
        }
    }

    /// The Deployment of a listener.
    #[must_use]
    pub fn deployment(&self, listener: &Key) -> Option<DeploymentSeen> {
        self.deployment_of(Kind::Deployment, listener)
    }

    /// The Deployment of a listener's pods for jobs.
    #[must_use]
    pub fn workers(&self, listener: &Key) -> Option<DeploymentSeen> {
        self.deployment_of(Kind::Workers, listener)
    }

    fn deployment_of(&self, kind: Kind, listener: &Key) -> Option<DeploymentSeen> {
        let held = self.listeners.get(listener)?;
        self.own(kind, listener, held.meta())?;
        self.deployments.get(&owned_key(kind, listener)).cloned()
    }

    /// Whether any listener reads a Secret.
    #[must_use]
    pub fn is_read(&self, secret: &Key) -> bool {
        self.readers.contains_key(secret)
    }

    /// The version of a Secret, where there is one.
    #[must_use]
    pub fn secret(&self, key: &Key) -> Option<SecretSeen> {
        self.secrets.get(key).cloned()
    }

    /// Notes what an owned object is now, ahead of the watch.
    pub fn applied(&mut self, kind: Kind, key: &Key, seen: OwnedSeen) {
        self.owned.insert((kind.watched(), key.clone()), seen);
    }

    fn put_listener(&mut self, key: Key, held: &Parsed<ObserverListener>) -> BTreeSet<Work> {
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
        work.insert(Work::Listener(key));
        work
    }

    /// Others of the same identity: which of them is in the right may have changed.
    fn concerned_by_listener(
        &self,
        key: &Key,
        held: Option<&Parsed<ObserverListener>>,
    ) -> BTreeSet<Work> {
        let Some(Parsed::Valid(listener)) = held else {
            return BTreeSet::new();
        };
        self.rivals(key, &identity(key, listener))
            .iter()
            .map(|rival| Work::Listener(Key::of(&rival.metadata)))
            .collect()
    }

    fn put_observer(&mut self, key: Key, held: &Parsed<Observer>) -> BTreeSet<Work> {
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
        work.insert(Work::Observer(key));
        work
    }

    fn choosing_work(&self, key: &Key, held: Option<&Parsed<Observer>>) -> BTreeSet<Work> {
        held.into_iter()
            .flat_map(|held| self.choosing(key, held.meta()))
            .map(|(listener, _)| Work::Listener(listener))
            .collect()
    }

    fn put_namespace(&mut self, key: Key, seen: Option<NamespaceSeen>) -> BTreeSet<Work> {
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
            .map(|(listener, _)| Work::Listener(listener.clone()))
            .collect()
    }

    fn put_secret(&mut self, key: Key, seen: Option<&SecretSeen>) -> BTreeSet<Work> {
        let readers = self.readers.get(&key).cloned().unwrap_or_default();
        let before = match seen {
            Some(seen) => self.secrets.insert(key, seen.clone()),
            None => self.secrets.remove(&key),
        };
        if before.as_ref() == seen {
            return BTreeSet::new();
        }
        readers.into_iter().map(Work::Listener).collect()
    }

    fn put_owned(&mut self, kind: Kind, key: &Key, seen: Option<OwnedSeen>) -> BTreeSet<Work> {
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
            .map(|seen| Work::Listener(seen.owner))
            .collect()
    }
}

/// The name under which a listener keeps its progress.
#[must_use]
pub fn identity(key: &Key, listener: &ObserverListener) -> String {
    let given = listener.spec.identity.clone();
    given.unwrap_or_else(|| key.to_string())
}

/// Name of a listener's object of a kind.
#[must_use]
pub fn owned_key(kind: Kind, listener: &Key) -> Key {
    let name = match kind {
        Kind::Secret => crate::listener::build::bundle_name(&listener.name),
        Kind::Workers | Kind::WorkersBudget => crate::listener::build::workers_name(&listener.name),
        _ => crate::listener::build::object_name(&listener.name),
    };
    Key::new(&*listener.namespace, name)
}

#[cfg(test)]
mod tests;
