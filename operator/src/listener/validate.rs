//! Validates a listener and compiles the bundle of its observers: pure functions.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crds::bundle::{self, BundleError, CheckedObservers, CompiledBundle, Inclusion, PackedBundle};
use crds::config::Redacted;
use crds::endpoints;
use crds::v1alpha1::{NetworkPolicyEgress, Observer, ObserverListener};
use url::Url;

use crate::cache::Snapshot;
use crate::listener::derived_egress::DerivedEgress;
use crate::listener::status::Rejection;
use crate::object_ref::ObjectRef;
use crate::observer::evaluation::ObserverEvaluation;

/// Port of Postgres where a URL names none.
const POSTGRES_PORT: u16 = 5432;

/// Reason of what does not fit into a bundle.
pub const BUNDLE_TOO_LARGE: &str = "BundleTooLarge";

/// Values of Secrets; `None` for those that do not exist.
pub type SecretValues = BTreeMap<ObjectRef, Option<BTreeMap<String, Vec<u8>>>>;

/// Result of the validation.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The bundle, or why there is none.
    pub bundle: Result<Bundle, Rejection>,
    /// Evaluations of the observers that need no pod; `None` for those in the bundle.
    pub observers: BTreeMap<ObjectRef, Option<ObserverEvaluation>>,
}

/// A bundle, ready for its Secrets.
#[derive(Clone, Debug)]
pub struct Bundle {
    /// The listener alone.
    pub listener: Redacted,
    /// The whole text, compressed.
    pub packed: PackedBundle,
    /// What identifies it.
    pub id: BundleId,
    /// What its pods may connect to; everything where absent.
    pub egress: Option<Arc<DerivedEgress>>,
}

/// Identity of a bundle.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BundleId {
    /// SHA-256 of its text in hexadecimal.
    pub hash: String,
    /// Number of its Secrets.
    pub parts: usize,
}

/// Returns the Secrets to read: those of the listener, of its observers, and of other listeners of the
/// same identity.
#[must_use]
pub fn references(
    key: &ObjectRef,
    listener: &ObserverListener,
    snapshot: &Snapshot,
) -> BTreeSet<ObjectRef> {
    let mut found = bundle::references(&key.namespace, &listener.spec);
    for observer in &snapshot.observers {
        let namespace = ObjectRef::of(&observer.metadata).namespace;
        found.extend(bundle::references(&namespace, &observer.spec));
    }
    for other in &snapshot.identity_conflicts {
        let namespace = ObjectRef::of(&other.metadata).namespace;
        found.extend(bundle::references(&namespace, &other.spec.database));
    }
    found
        .into_iter()
        .map(|reference| ObjectRef::new(reference.namespace, reference.name))
        .collect()
}

/// Validates a listener and compiles its bundle. What was `checked` before is not checked again while it stays the same.
#[must_use]
pub fn plan(
    key: &ObjectRef,
    listener: &ObserverListener,
    snapshot: &Snapshot,
    secrets: &SecretValues,
    checked: &mut CheckedObservers,
) -> Plan {
    let mut observers: BTreeMap<ObjectRef, Option<ObserverEvaluation>> = snapshot
        .observers
        .iter()
        .map(|observer| (ObjectRef::of(&observer.metadata), None))
        .collect();
    for observer in &snapshot.not_allowed {
        let evaluation = ObserverEvaluation::not_allowed(key, observer, snapshot.labelled);
        observers.insert(observer.clone(), Some(evaluation));
    }
    for (observer, why) in &snapshot.unreadable {
        let message = why.clone();
        observers.insert(
            observer.clone(),
            Some(ObserverEvaluation::Invalid { message }),
        );
    }
    if let Some(elder) = conflict(key, listener, &snapshot.identity_conflicts, secrets) {
        let message = format!(
            "listener {elder} has the same identity on the same database and is older; give one of \
             them another spec.identity, or delete it"
        );
        let reason = "IdentityConflict".to_owned();
        return Plan {
            bundle: Err(Rejection { reason, message }),
            observers,
        };
    }
    let values = |namespace: &str, name: &str| {
        let key = ObjectRef::new(namespace, name);
        secrets.get(&key).cloned().flatten()
    };
    let selected: Vec<&Observer> = snapshot.observers.iter().map(AsRef::as_ref).collect();
    match bundle::compile(listener, &selected, &snapshot.namespaces, &values, checked) {
        Ok(made) => {
            let egress = derived_egress(key, listener, &made);
            for result in made.observers {
                let observer = ObjectRef::new(result.namespace, result.name);
                observers.insert(observer, evaluation_of(result.inclusion));
            }
            let id = BundleId {
                hash: bundle::hash(made.text.reveal().as_bytes()),
                parts: made.packed.parts().len(),
            };
            Plan {
                bundle: Ok(Bundle {
                    egress,
                    listener: made.listener,
                    packed: made.packed,
                    id,
                }),
                observers,
            }
        }
        Err(error) => Plan {
            bundle: Err(rejection(&error)),
            observers,
        },
    }
}

/// Returns what the pods may connect to, where that is to be derived.
fn derived_egress(
    key: &ObjectRef,
    listener: &ObserverListener,
    made: &CompiledBundle,
) -> Option<Arc<DerivedEgress>> {
    match listener.spec.network_policy.egress {
        NetworkPolicyEgress::Open => None,
        NetworkPolicyEgress::Derived => {
            let template = listener.spec.pod_template.as_ref();
            let variables = template.map_or(&[][..], |template| &template.env);
            let collectors = endpoints::of_environment(variables);
            let all = made.endpoints.iter().chain(&collectors);
            Some(Arc::new(DerivedEgress::new(
                &key.namespace,
                &made.egress,
                all,
            )))
        }
    }
}

/// Returns the older listener whose progress this one would overwrite, if there is one.
#[must_use]
pub fn conflict(
    key: &ObjectRef,
    listener: &ObserverListener,
    identity_conflicts: &[std::sync::Arc<ObserverListener>],
    secrets: &SecretValues,
) -> Option<ObjectRef> {
    let mine = database(key, listener, secrets)?;
    let age = |listener: &ObserverListener| {
        let meta = &listener.metadata;
        (meta.creation_timestamp.clone(), ObjectRef::of(meta))
    };
    identity_conflicts
        .iter()
        .filter(|peer| age(peer) < age(listener))
        .map(|peer| (ObjectRef::of(&peer.metadata), peer))
        .find(|(other, peer)| database(other, peer, secrets).as_ref() == Some(&mine))
        .map(|(other, _)| other)
}

/// Returns the URL of a listener's database, where it is known.
#[must_use]
pub fn database_url(
    key: &ObjectRef,
    listener: &ObserverListener,
    secrets: &SecretValues,
) -> Option<Redacted> {
    let source = &listener.spec.database.url;
    if let Some(value) = &source.value {
        return Some(Redacted::new(value));
    }
    let reference = source.secret_key_ref.as_ref()?;
    let values = secrets.get(&ObjectRef::new(&*key.namespace, &*reference.name))?;
    let value = values.as_ref()?.get(&reference.key)?;
    let text = std::str::from_utf8(value).ok()?;
    Some(Redacted::new(text.trim_end_matches(['\r', '\n'])))
}

/// Identity of a database, to tell whether two URLs lead to the same one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Database {
    host: String,
    port: u16,
    name: String,
}

/// Parses a URL, as pods of a namespace resolve it.
fn read_database(url: &Redacted, namespace: &str) -> Option<Database> {
    let url = Url::parse(url.reveal()).ok()?;
    let parameter = |name: &str| {
        let found = url.query_pairs().find(|(key, _)| key == name);
        found.map(|(_, value)| value.into_owned())
    };
    let host = parameter("host").or_else(|| url.host_str().map(ToOwned::to_owned))?;
    let port = parameter("port").and_then(|port| port.parse().ok());
    let named = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    let name = parameter("dbname")
        .or_else(|| named(url.path().trim_start_matches('/')))
        .or_else(|| named(url.username()))?;
    Some(Database {
        host: full_host(&host, namespace),
        port: port.or(url.port()).unwrap_or(POSTGRES_PORT),
        name,
    })
}

/// Returns one name of the several that a Service has; the shortest depends on the namespace.
fn full_host(host: &str, namespace: &str) -> String {
    let host = host.trim_end_matches('.').to_ascii_lowercase();
    if !host.contains(['.', ':', '/', '%']) && host != "localhost" {
        return format!("{host}.{namespace}.svc");
    }
    let short = host.strip_suffix(".cluster.local");
    short.map_or_else(|| host.clone(), ToOwned::to_owned)
}

/// Returns the database of a listener, where its URL is known.
#[must_use]
pub fn database(
    key: &ObjectRef,
    listener: &ObserverListener,
    secrets: &SecretValues,
) -> Option<Database> {
    read_database(&database_url(key, listener, secrets)?, &key.namespace)
}

fn evaluation_of(inclusion: Inclusion) -> Option<ObserverEvaluation> {
    match inclusion {
        Inclusion::Included => None,
        Inclusion::Suspended => Some(ObserverEvaluation::Suspended),
        Inclusion::Invalid(sentences) => Some(ObserverEvaluation::Invalid {
            message: sentences.join("; "),
        }),
        Inclusion::Unresolved(sentences) => Some(ObserverEvaluation::Unresolved {
            reason: "SecretMissing".to_owned(),
            message: sentences.join("; "),
        }),
        Inclusion::LeftOut(message) => Some(ObserverEvaluation::LeftOut { message }),
    }
}

fn rejection(error: &BundleError) -> Rejection {
    let reason = match error {
        BundleError::Invalid(_) => "Invalid",
        BundleError::Unresolved(_) => "SecretMissing",
        BundleError::TooLarge { .. } => BUNDLE_TOO_LARGE,
    };
    Rejection {
        reason: reason.to_owned(),
        message: error.to_string(),
    }
}

#[cfg(test)]
#[path = "validate_tests.rs"]
mod tests;
