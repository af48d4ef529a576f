//! Brings a listener's objects to what they should be, and writes nothing when they are so.
//!
//! An object is written when what is wanted changed or when the object did. What was written last
//! is remembered by its digest, and the object by its version. Parts that others may set stay
//! theirs: the operator applies what it has an opinion about, and takes it over from anyone.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};

use kube::api::{DeleteParams, DynamicObject, Patch, PatchParams};
use kube::{Api, Client};

use crate::build::{Built, FIELD_MANAGER, Kind};
use crate::key::Key;
use crate::seen::OwnedSeen;

/// What was applied for one listener.
pub type Memory = BTreeMap<Kind, Applied>;

/// One object that was applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Applied {
    /// Digest of what was asked for.
    asked: u64,
    /// Version of the object afterwards.
    version: u64,
}

/// Why an object could not be written.
#[derive(Debug, thiserror::Error)]
#[error("cannot {doing} {} {name}: {source}", kind.resource().kind)]
pub struct ApplyError {
    /// What was tried.
    doing: &'static str,
    /// Kind of the object.
    pub kind: Kind,
    /// Name of the object.
    name: String,
    /// The answer.
    pub source: kube::Error,
}

impl ApplyError {
    /// Whether the API server refuses it as it is, so that its user has something to change.
    #[must_use]
    pub fn is_refusal(&self) -> bool {
        matches!(&self.source, kube::Error::Api(status)
            if (400..500).contains(&status.code) && !matches!(status.code, 401 | 404 | 409 | 429))
    }
}

/// Whether an object must be written.
#[must_use]
pub fn due(built: &Built, memory: &Memory, seen: Option<u64>) -> bool {
    match memory.get(&built.kind) {
        Some(applied) => applied.asked != digest(built) || seen != Some(applied.version),
        None => true,
    }
}

/// Whether an object was applied before and is still as it was then.
#[must_use]
pub fn untouched(kind: Kind, memory: &Memory, seen: &BTreeMap<Kind, u64>) -> bool {
    let applied = memory.get(&kind);
    applied.is_some_and(|applied| seen.get(&kind) == Some(&applied.version))
}

/// Writes an object and remembers it. Answers with what the object is now.
pub async fn apply(
    client: &Client,
    namespace: &str,
    built: &Built,
    memory: &mut Memory,
) -> Result<Option<OwnedSeen>, ApplyError> {
    let api = api(client, namespace, built.kind);
    let parameters = PatchParams::apply(FIELD_MANAGER).force();
    let object = api
        .patch(&built.name, &parameters, &Patch::Apply(&built.object))
        .await
        .map_err(|source| ApplyError {
            doing: "apply",
            kind: built.kind,
            name: built.name.clone(),
            source,
        })?;
    let seen = OwnedSeen::of(&object.metadata);
    if let Some(seen) = &seen {
        let applied = Applied {
            asked: digest(built),
            version: seen.version,
        };
        memory.insert(built.kind, applied);
    }
    Ok(seen)
}

/// Deletes an object that is not wanted any more.
pub async fn delete(client: &Client, kind: Kind, key: &Key) -> Result<(), ApplyError> {
    let api = api(client, &key.namespace, kind);
    let deleted = api.delete(&key.name, &DeleteParams::background()).await;
    match deleted {
        Ok(_) => Ok(()),
        Err(error) if is_gone(&error) => Ok(()),
        Err(source) => Err(ApplyError {
            doing: "delete",
            kind,
            name: key.name.clone(),
            source,
        }),
    }
}

/// Whether an answer says that the object is not there.
#[must_use]
pub fn is_gone(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == 404)
}

fn api(client: &Client, namespace: &str, kind: Kind) -> Api<DynamicObject> {
    Api::namespaced_with(client.clone(), namespace, &kind.resource())
}

fn digest(built: &Built) -> u64 {
    let mut hasher = DefaultHasher::new();
    built.name.hash(&mut hasher);
    // Maps of serde_json are sorted, so the same object gives the same text.
    built.object.to_string().hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_object_is_written_when_it_or_what_is_wanted_changed() {
        let built = |port: i32| Built {
            kind: Kind::Service,
            name: "shop-listener".to_owned(),
            object: json!({ "spec": { "port": port } }),
        };
        let mut memory = Memory::new();
        assert!(due(&built(1), &memory, None));
        assert!(due(&built(1), &memory, Some(7)));
        let applied = Applied {
            asked: digest(&built(1)),
            version: 7,
        };
        memory.insert(Kind::Service, applied);
        assert!(!due(&built(1), &memory, Some(7)));
        assert!(due(&built(2), &memory, Some(7)), "something else is wanted");
        assert!(due(&built(1), &memory, Some(8)), "somebody edited it");
        assert!(due(&built(1), &memory, None), "somebody deleted it");
    }
}
