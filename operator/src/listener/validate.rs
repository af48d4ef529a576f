//! Whether a listener can be run as it is written, and with which of its observers.
//!
//! Pure: the resources and the values of their secrets are passed in.

use std::collections::{BTreeMap, BTreeSet};

use crds::bundle::{self, BundleError, Outcome};
use crds::config::Redacted;
use crds::resources::{Observer, ObserverListener};
use sha2::{Digest, Sha256};
use url::Url;

use crate::cache::Snapshot;
use crate::listener::status::Refused;
use crate::object_ref::Key;
use crate::observer::evaluation::Verdict;

/// Port of Postgres where a URL names none.
const POSTGRES_PORT: u16 = 5432;

/// The values of Secrets; `None` for those that are not there.
pub type SecretValues = BTreeMap<Key, Option<BTreeMap<String, Vec<u8>>>>;

/// What a listener should run.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Its bundle, or why there is none.
    pub bundle: Result<Bundle, Refused>,
    /// What is known of its observers before a pod has spoken; `None` for those in the bundle.
    pub observers: BTreeMap<Key, Option<Verdict>>,
}

/// A bundle, ready for its Secret.
#[derive(Clone, Debug)]
pub struct Bundle {
    /// The text.
    pub text: Redacted,
    /// SHA-256 of it in hexadecimal.
    pub hash: String,
}

/// The Secrets that must be read to plan a listener: its own, those of its observers, and those
/// of other listeners of the same identity.
#[must_use]
pub fn references(key: &Key, listener: &ObserverListener, snapshot: &Snapshot) -> BTreeSet<Key> {
    let mut found = bundle::references(&key.namespace, &listener.spec);
    for observer in &snapshot.observers {
        let namespace = Key::of(&observer.metadata).namespace;
        found.extend(bundle::references(&namespace, &observer.spec));
    }
    for rival in &snapshot.rivals {
        let namespace = Key::of(&rival.metadata).namespace;
        found.extend(bundle::references(&namespace, &rival.spec.source));
    }
    found
        .into_iter()
        .map(|reference| Key::new(reference.namespace, reference.name))
        .collect()
}

/// Decides what a listener should run.
#[must_use]
pub fn plan(
    key: &Key,
    listener: &ObserverListener,
    snapshot: &Snapshot,
    secrets: &SecretValues,
) -> Plan {
    let mut observers: BTreeMap<Key, Option<Verdict>> = snapshot
        .observers
        .iter()
        .map(|observer| (Key::of(&observer.metadata), None))
        .collect();
    for observer in &snapshot.not_allowed {
        let verdict = Verdict::not_allowed(key, observer, snapshot.labelled);
        observers.insert(observer.clone(), Some(verdict));
    }
    for (observer, why) in &snapshot.unreadable {
        let message = why.clone();
        observers.insert(observer.clone(), Some(Verdict::Invalid { message }));
    }
    if let Some(elder) = conflict(key, listener, &snapshot.rivals, secrets) {
        let message = format!(
            "listener {elder} has the same identity on the same database and is older; give one of \
             them another spec.identity, or delete it"
        );
        let reason = "IdentityConflict".to_owned();
        return Plan {
            bundle: Err(Refused { reason, message }),
            observers,
        };
    }
    let values = |namespace: &str, name: &str| {
        let key = Key::new(namespace, name);
        secrets.get(&key).cloned().flatten()
    };
    let selected: Vec<&Observer> = snapshot.observers.iter().map(AsRef::as_ref).collect();
    match bundle::compile(listener, &selected, &snapshot.namespaces, &values) {
        Ok(made) => {
            for verdict in made.verdicts {
                let observer = Key::new(verdict.namespace, verdict.name);
                observers.insert(observer, judged(verdict.outcome));
            }
            let hash = hash(made.text.reveal());
            let text = made.text;
            Plan {
                bundle: Ok(Bundle { text, hash }),
                observers,
            }
        }
        Err(error) => Plan {
            bundle: Err(refused(&error)),
            observers,
        },
    }
}

/// The older listener whose progress this one would write over, if there is one.
#[must_use]
pub fn conflict(
    key: &Key,
    listener: &ObserverListener,
    rivals: &[std::sync::Arc<ObserverListener>],
    secrets: &SecretValues,
) -> Option<Key> {
    let mine = database(key, listener, secrets)?;
    let age = |listener: &ObserverListener| {
        let meta = &listener.metadata;
        (meta.creation_timestamp.clone(), Key::of(meta))
    };
    rivals
        .iter()
        .filter(|rival| age(rival) < age(listener))
        .map(|rival| (Key::of(&rival.metadata), rival))
        .find(|(other, rival)| database(other, rival, secrets).as_ref() == Some(&mine))
        .map(|(other, _)| other)
}

/// The URL of a listener's database, where it can be had.
#[must_use]
pub fn database_url(
    key: &Key,
    listener: &ObserverListener,
    secrets: &SecretValues,
) -> Option<Redacted> {
    let source = &listener.spec.source.change_log.database_url;
    if let Some(value) = &source.value {
        return Some(Redacted::new(value));
    }
    let reference = source.secret_key_ref.as_ref()?;
    let values = secrets.get(&Key::new(&*key.namespace, &*reference.name))?;
    let value = values.as_ref()?.get(&reference.key)?;
    let text = std::str::from_utf8(value).ok()?;
    Some(Redacted::new(text.trim_end_matches(['\r', '\n'])))
}

/// A database, as far as two URLs can be told to lead to the same one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Database {
    host: String,
    port: u16,
    name: String,
}

/// Reads a database out of a URL, as pods of a namespace see it.
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

/// A Service has several names, and the shortest means another one in each namespace.
fn full_host(host: &str, namespace: &str) -> String {
    let host = host.trim_end_matches('.').to_ascii_lowercase();
    if !host.contains(['.', ':', '/', '%']) && host != "localhost" {
        return format!("{host}.{namespace}.svc");
    }
    let short = host.strip_suffix(".cluster.local");
    short.map_or_else(|| host.clone(), ToOwned::to_owned)
}

/// The database of a listener, where its URL can be had.
#[must_use]
pub fn database(
    key: &Key,
    listener: &ObserverListener,
    secrets: &SecretValues,
) -> Option<Database> {
    read_database(&database_url(key, listener, secrets)?, &key.namespace)
}

fn judged(outcome: Outcome) -> Option<Verdict> {
    match outcome {
        Outcome::Included => None,
        Outcome::Suspended => Some(Verdict::Suspended),
        Outcome::Invalid(sentences) => Some(Verdict::Invalid {
            message: sentences.join("; "),
        }),
        Outcome::Unresolved(sentences) => Some(Verdict::Unresolved {
            reason: "SecretMissing".to_owned(),
            message: sentences.join("; "),
        }),
    }
}

fn refused(error: &BundleError) -> Refused {
    let reason = match error {
        BundleError::Invalid(_) => "Invalid",
        BundleError::Unresolved(_) => "SecretMissing",
        BundleError::TooLarge { .. } => "BundleTooLarge",
    };
    Refused {
        reason: reason.to_owned(),
        message: error.to_string(),
    }
}

fn hash(text: &str) -> String {
    use std::fmt::Write as _;
    let mut hash = String::with_capacity(64);
    for byte in Sha256::digest(text.as_bytes()) {
        // Writing to a String does not fail.
        let _ = write!(hash, "{byte:02x}");
    }
    hash
}

#[cfg(test)]
#[path = "validate_tests.rs"]
mod tests;
