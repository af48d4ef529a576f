//! Brings a listener's objects to what they should be, and writes nothing when they are so.
//!
//! An object is written when what is wanted changed or when the object did. What was written last
//! is remembered by its digest, and the object by its version. Parts that others may set stay
//! theirs: the operator applies what it has an opinion about, and takes it over from anyone.
//!
//! An object that has the name and is not the listener's own is never touched: it may be anybody's.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};

use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{
    DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams, Preconditions,
};
use kube::{Api, Client};

use crate::cache::projection::OwnedSeen;
use crate::listener::build::{Built, FIELD_MANAGER, Fleet, Kind, cleanup_job, removal_name};
use crate::object_ref::Key;

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
pub enum ApplyError {
    /// The API server cannot be asked, or does not take it.
    #[error("cannot {doing} {kind} {name}: {source}")]
    Failed {
        /// What was tried.
        doing: &'static str,
        /// Kind of the object.
        kind: String,
        /// Name of the object.
        name: String,
        /// The answer.
        source: Box<kube::Error>,
    },
    /// Objects of others have the names.
    #[error(
        "{} there already and not made for this listener, so left as it is; delete or rename it, or give the \
         listener another name", names(.0)
    )]
    Taken(Vec<String>),
}

impl ApplyError {
    pub(crate) fn failed(doing: &'static str, kind: &str, name: &str, source: kube::Error) -> Self {
        Self::Failed {
            doing,
            kind: kind.to_owned(),
            name: name.to_owned(),
            source: Box::new(source),
        }
    }

    /// Why, in a word, where it cannot be written as it is, so that its user has something to change.
    #[must_use]
    pub fn refusal(&self) -> Option<&'static str> {
        match self {
            Self::Taken(_) => Some("NameTaken"),
            Self::Failed { source, .. } => is_refusal(source).then_some("ApplyFailed"),
        }
    }

    /// Whether it is refused because its namespace is deleted.
    #[must_use]
    pub fn is_namespace_going(&self) -> bool {
        let Self::Failed { source, .. } = self else {
            return false;
        };
        matches!(&**source, kube::Error::Api(status) if status.details.as_ref().is_some_and(
            |details| details.causes.iter().any(|cause| cause.reason == "NamespaceTerminating")
        ))
    }
}

fn is_refusal(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status)
        if (400..500).contains(&status.code) && !matches!(status.code, 401 | 404 | 409 | 429))
}

fn names(taken: &[String]) -> String {
    let verb = if taken.len() == 1 { "is" } else { "are each" };
    format!("{} {verb}", taken.join(", "))
}

/// Whether an object must be written.
#[must_use]
pub fn due(built: &Built, memory: &Memory, seen: Option<&OwnedSeen>) -> bool {
    match memory.get(&built.kind) {
        Some(applied) => {
            let version = seen.map(|seen| seen.version);
            applied.asked != digest(built) || version != Some(applied.version)
        }
        None => true,
    }
}

/// Whether an object was applied before and is still as it was then.
#[must_use]
pub fn untouched(kind: Kind, memory: &Memory, seen: &BTreeMap<Kind, OwnedSeen>) -> bool {
    let version = seen.get(&kind).map(|seen| seen.version);
    let applied = memory.get(&kind);
    applied.is_some_and(|applied| version == Some(applied.version))
}

/// The uids of objects that are there, by their kind. Those that were seen as the listener's own are
/// known; the API server is asked for the others, and each must be the listener's own or not there.
pub async fn find(
    client: &Client,
    namespace: &str,
    listener: &str,
    wanted: &[&Built],
    seen: &BTreeMap<Kind, OwnedSeen>,
) -> Result<BTreeMap<Kind, String>, ApplyError> {
    let (mut found, mut taken) = (BTreeMap::new(), Vec::new());
    for built in wanted {
        let kind = built.kind;
        if let Some(seen) = seen.get(&kind) {
            found.insert(kind, seen.uid.clone());
            continue;
        }
        let object = api(client, namespace, kind)
            .get_metadata_opt(&built.name)
            .await;
        let word = kind.resource().kind;
        let object =
            object.map_err(|source| ApplyError::failed("read", &word, &built.name, source))?;
        if let Some(object) = object {
            match OwnedSeen::of(&object.metadata).filter(|seen| seen.owner_uid == listener) {
                Some(seen) => drop(found.insert(kind, seen.uid)),
                None => taken.push(format!("{word} {}", built.name)),
            }
        }
    }
    if taken.is_empty() {
        Ok(found)
    } else {
        Err(ApplyError::Taken(taken))
    }
}

/// Writes an object and remembers it. Answers with what the object is now. `uid` is that of the
/// object where it is there and the listener's own: no other is written, and without one nothing
/// is taken over from whoever makes an object of the name meanwhile.
pub async fn apply(
    client: &Client,
    namespace: &str,
    built: &Built,
    uid: Option<&str>,
    memory: &mut Memory,
) -> Result<Option<OwnedSeen>, ApplyError> {
    let api = api(client, namespace, built.kind);
    let parameters = PatchParams {
        force: uid.is_some(),
        ..PatchParams::apply(FIELD_MANAGER)
    };
    let mut object = built.object.clone();
    if let Some(uid) = uid {
        object["metadata"]["uid"] = uid.into();
    }
    let object = api
        .patch_metadata(&built.name, &parameters, &Patch::Apply(&object))
        .await
        .map_err(|source| {
            ApplyError::failed("apply", &built.kind.resource().kind, &built.name, source)
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

/// Deletes an object that is not wanted any more, and no other of its name.
pub async fn delete(client: &Client, kind: Kind, key: &Key, uid: &str) -> Result<(), ApplyError> {
    let api = api(client, &key.namespace, kind);
    let this = Preconditions {
        uid: Some(uid.to_owned()),
        resource_version: None,
    };
    let parameters = DeleteParams::background().preconditions(this);
    match api.delete(&key.name, &parameters).await {
        Ok(_) => Ok(()),
        Err(error) if is_gone(&error) => Ok(()),
        Err(source) => {
            let kind = kind.resource().kind;
            Err(ApplyError::failed("delete", &kind, &key.name, source))
        }
    }
}

/// The Job that removes a listener's rows, where it is there and the listener's own.
pub async fn find_removal(client: &Client, fleet: &Fleet) -> Result<Option<Job>, ApplyError> {
    let api: Api<Job> = Api::namespaced(client.clone(), &fleet.namespace);
    let name = removal_name(&fleet.name);
    let job = api.get_opt(&name).await;
    let job = job.map_err(|source| ApplyError::failed("read", "Job", &name, source))?;
    let is_own =
        |job: &Job| OwnedSeen::of(&job.metadata).is_some_and(|seen| seen.owner_uid == fleet.uid);
    match job {
        Some(job) if !is_own(&job) => Err(ApplyError::Taken(vec![format!("Job {name}")])),
        job => Ok(job),
    }
}

/// The pods of that Job.
pub async fn removal_pods(client: &Client, fleet: &Fleet) -> Result<Vec<Pod>, ApplyError> {
    let api: Api<Pod> = Api::namespaced(client.clone(), &fleet.namespace);
    let name = removal_name(&fleet.name);
    let labels = format!("batch.kubernetes.io/job-name={name}");
    let pods = api.list(&ListParams::default().labels(&labels)).await;
    let pods =
        pods.map_err(|source| ApplyError::failed("list the pods of", "Job", &name, source))?;
    Ok(pods.items)
}

/// Makes that Job. One that is there by now is looked at next time.
pub async fn begin_removal(client: &Client, fleet: &Fleet) -> Result<(), ApplyError> {
    let api: Api<Job> = Api::namespaced(client.clone(), &fleet.namespace);
    let parameters = PostParams {
        field_manager: Some(FIELD_MANAGER.to_owned()),
        ..PostParams::default()
    };
    match api.create(&parameters, &cleanup_job::build(fleet)).await {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if status.code == 409 => Ok(()),
        Err(source) => {
            let name = removal_name(&fleet.name);
            Err(ApplyError::failed("make", "Job", &name, source))
        }
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
        let seen = |version| OwnedSeen {
            owner: Key::new("shop", "shop"),
            owner_uid: "listener".to_owned(),
            uid: "service".to_owned(),
            version,
        };
        let due = |built: &Built, memory: &Memory, version: Option<u64>| {
            super::due(built, memory, version.map(seen).as_ref())
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

    #[test]
    fn what_others_made_is_named_with_the_remedy() {
        let taken = ApplyError::Taken(vec!["Secret a-listener-bundle".to_owned()]);
        assert_eq!(taken.refusal(), Some("NameTaken"));
        let said = taken.to_string();
        assert!(
            said.starts_with("Secret a-listener-bundle is there") && said.contains("another name"),
            "{said}"
        );
    }
}
