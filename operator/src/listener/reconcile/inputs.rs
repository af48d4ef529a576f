//! Tells whether what a listener's desired state is made from has changed.

use std::collections::BTreeSet;
use std::hash::{DefaultHasher, Hash, Hasher};

use crds::v1alpha1::ObserverListener;

use crate::cache::{Index, Snapshot};
use crate::object_ref::ObjectRef;

/// Returns a digest of everything that the desired state is made from.
pub(super) fn inputs(
    listener: &ObserverListener,
    snapshot: &Snapshot,
    secrets: &BTreeSet<ObjectRef>,
    index: &Index,
) -> u64 {
    let mut hasher = DefaultHasher::new();
    let mut add = |meta: &kube::core::ObjectMeta| {
        meta.uid.hash(&mut hasher);
        meta.generation.hash(&mut hasher);
        meta.labels.hash(&mut hasher);
    };
    add(&listener.metadata);
    for observer in &snapshot.observers {
        add(&observer.metadata);
    }
    for other in &snapshot.identity_conflicts {
        add(&other.metadata);
    }
    snapshot.unreadable.hash(&mut hasher);
    (&snapshot.not_allowed, snapshot.labelled).hash(&mut hasher);
    snapshot.namespaces.hash(&mut hasher);
    for secret in secrets {
        (secret, index.secret(secret)).hash(&mut hasher);
    }
    hasher.finish()
}
