//! Applies a listener's objects server-side, and writes nothing while they are as they should be.
//!
//! An object is applied when the desired object changed or when the live one did. The cache holds a
//! digest of what was applied last and the version that came of it. Fields that others may set stay
//! theirs: the operator applies only the fields that it has an opinion about, and forces those.
//!
//! An object of the right name that is not owned by the listener is never touched.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};

use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{
    DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams, Preconditions,
};
use kube::{Api, Client};

use crate::cache::projection::OwnedInfo;
use crate::listener::build::{
    DesiredObject, FIELD_MANAGER, Kind, ListenerResources, cleanup_job, cleanup_job_name,
};
use crate::object_ref::ObjectRef;

/// What was applied last for one listener.
pub type ApplyCache = BTreeMap<Kind, AppliedState>;

/// An object that was applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AppliedState {
    /// Digest of the desired object.
    asked: u64,
    /// Version of the object afterwards.
    version: u64,
}

/// Why an object was not written.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// The request failed, or the API server rejected it.
    #[error("cannot {doing} {kind} {name}: {source}")]
    Failed {
        /// The attempted operation.
        doing: &'static str,
        /// Kind of the object.
        kind: String,
        /// Name of the object.
        name: String,
        /// The answer.
        source: Box<kube::Error>,
    },
    /// Objects that are not the listener's have the names.
    #[error(
        "{} there already and not created for this listener, so left unchanged; delete or rename it, or give the \
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

    /// Returns the reason for the status where retrying as it is cannot help and the user must act.
    #[must_use]
    pub fn rejection_reason(&self) -> Option<&'static str> {
        match self {
            Self::Taken(_) => Some("NameTaken"),
            Self::Failed { source, .. } => is_rejected(source).then_some("ApplyFailed"),
        }
    }

    /// Returns whether the namespace is being deleted.
    #[must_use]
    pub fn is_namespace_terminating(&self) -> bool {
        let Self::Failed { source, .. } = self else {
            return false;
        };
        matches!(&**source, kube::Error::Api(status) if status.details.as_ref().is_some_and(
            |details| details.causes.iter().any(|cause| cause.reason == "NamespaceTerminating")
        ))
    }
}

fn is_rejected(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status)
        if (400..500).contains(&status.code) && !matches!(status.code, 401 | 404 | 409 | 429))
}

fn names(taken: &[String]) -> String {
    let verb = if taken.len() == 1 { "is" } else { "are each" };
    format!("{} {verb}", taken.join(", "))
}

/// Returns whether an object must be applied.
#[must_use]
pub fn needs_apply(built: &DesiredObject, cache: &ApplyCache, seen: Option<&OwnedInfo>) -> bool {
    match cache.get(&built.kind) {
        Some(applied) => {
            let version = seen.map(|seen| seen.version);
            applied.asked != digest(built) || version != Some(applied.version)
        }
        None => true,
    }
}

/// Returns whether an object was applied before and has not changed since.
#[must_use]
pub fn is_unchanged(kind: Kind, cache: &ApplyCache, seen: &BTreeMap<Kind, OwnedInfo>) -> bool {
    let version = seen.get(&kind).map(|seen| seen.version);
    let applied = cache.get(&kind);
    applied.is_some_and(|applied| version == Some(applied.version))
}

/// Returns the uids of the objects that exist, by kind. The cache knows those of the listener's own;
/// the others are read from the API server. Fails where one exists that is not the listener's own.
pub async fn find(
    client: &Client,
    namespace: &str,
    listener: &str,
    wanted: &[&DesiredObject],
    seen: &BTreeMap<Kind, OwnedInfo>,
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
            match OwnedInfo::of(&object.metadata).filter(|seen| seen.owner_uid == listener) {
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

/// Applies an object, records it, and returns what the object is now. `uid` is that of the existing
/// object: no other is written. Without a uid nothing is forced, so an object that somebody creates
/// under the name meanwhile is not taken over.
pub async fn apply(
    client: &Client,
    namespace: &str,
    built: &DesiredObject,
    uid: Option<&str>,
    cache: &mut ApplyCache,
) -> Result<Option<OwnedInfo>, ApplyError> {
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
    let seen = OwnedInfo::of(&object.metadata);
    if let Some(seen) = &seen {
        let applied = AppliedState {
            asked: digest(built),
            version: seen.version,
        };
        cache.insert(built.kind, applied);
    }
    Ok(seen)
}

/// Deletes the object with this uid, and no other of its name.
pub async fn delete(
    client: &Client,
    kind: Kind,
    key: &ObjectRef,
    uid: &str,
) -> Result<(), ApplyError> {
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

/// Returns the cleanup Job, where it exists and is the listener's own.
pub async fn find_cleanup_job(
    client: &Client,
    resources: &ListenerResources,
) -> Result<Option<Job>, ApplyError> {
    let api: Api<Job> = Api::namespaced(client.clone(), &resources.namespace);
    let name = cleanup_job_name(&resources.name);
    let job = api.get_opt(&name).await;
    let job = job.map_err(|source| ApplyError::failed("read", "Job", &name, source))?;
    let is_own = |job: &Job| {
        OwnedInfo::of(&job.metadata).is_some_and(|seen| seen.owner_uid == resources.uid)
    };
    match job {
        Some(job) if !is_own(&job) => Err(ApplyError::Taken(vec![format!("Job {name}")])),
        job => Ok(job),
    }
}

/// Returns the pods of the cleanup Job.
pub async fn cleanup_job_pods(
    client: &Client,
    resources: &ListenerResources,
) -> Result<Vec<Pod>, ApplyError> {
    let api: Api<Pod> = Api::namespaced(client.clone(), &resources.namespace);
    let name = cleanup_job_name(&resources.name);
    let labels = format!("batch.kubernetes.io/job-name={name}");
    let pods = api.list(&ListParams::default().labels(&labels)).await;
    let pods =
        pods.map_err(|source| ApplyError::failed("list the pods of", "Job", &name, source))?;
    Ok(pods.items)
}

/// Creates the cleanup Job. One that exists by now is checked next time.
pub async fn start_cleanup_job(
    client: &Client,
    resources: &ListenerResources,
) -> Result<(), ApplyError> {
    let api: Api<Job> = Api::namespaced(client.clone(), &resources.namespace);
    let parameters = PostParams {
        field_manager: Some(FIELD_MANAGER.to_owned()),
        ..PostParams::default()
    };
    match api
        .create(&parameters, &cleanup_job::build(resources))
        .await
    {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if status.code == 409 => Ok(()),
        Err(source) => {
            let name = cleanup_job_name(&resources.name);
            Err(ApplyError::failed("make", "Job", &name, source))
        }
    }
}

/// Returns whether the object does not exist.
#[must_use]
pub fn is_gone(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == 404)
}

fn api(client: &Client, namespace: &str, kind: Kind) -> Api<DynamicObject> {
    Api::namespaced_with(client.clone(), namespace, &kind.resource())
}

fn digest(built: &DesiredObject) -> u64 {
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
    fn object_is_applied_when_it_or_its_desired_state_changed() {
        let built = |port: i32| DesiredObject {
            kind: Kind::Service,
            name: "shop-listener".to_owned(),
            object: json!({ "spec": { "port": port } }),
        };
        let seen = |version| OwnedInfo {
            owner: ObjectRef::new("shop", "shop"),
            owner_uid: "listener".to_owned(),
            uid: "service".to_owned(),
            version,
        };
        let due = |built: &DesiredObject, cache: &ApplyCache, version: Option<u64>| {
            super::needs_apply(built, cache, version.map(seen).as_ref())
        };
        let mut cache = ApplyCache::new();
        assert!(due(&built(1), &cache, None));
        assert!(due(&built(1), &cache, Some(7)));
        let applied = AppliedState {
            asked: digest(&built(1)),
            version: 7,
        };
        cache.insert(Kind::Service, applied);
        assert!(!due(&built(1), &cache, Some(7)));
        assert!(due(&built(2), &cache, Some(7)), "something else is wanted");
        assert!(due(&built(1), &cache, Some(8)), "somebody edited it");
        assert!(due(&built(1), &cache, None), "somebody deleted it");
    }

    #[test]
    fn foreign_objects_are_named_with_the_remedy() {
        let taken = ApplyError::Taken(vec!["Secret a-listener-bundle".to_owned()]);
        assert_eq!(taken.rejection_reason(), Some("NameTaken"));
        let said = taken.to_string();
        assert!(
            said.starts_with("Secret a-listener-bundle is there") && said.contains("another name"),
            "{said}"
        );
    }
}
