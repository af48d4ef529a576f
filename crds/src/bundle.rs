//! The bundle: everything that the pods of one listener run, as one text in the format of
//! the files that users write.
//!
//! Compiling is a pure function of the resources and the secrets. An observer that cannot run is
//! left out with its reason, and the others run. The same resources give the same text, in
//! any order.

use std::collections::{BTreeMap, BTreeSet};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use kube::ResourceExt;
use serde_json::{Value, json};

use crate::loader::{check_alone, namespace_labels};
use crate::manifest::Diagnostic;
use crate::v1alpha1::{GROUP, NamespacesFrom, Observer, ObserverListener, VERSION};

/// Key of the text in the Secret of the bundle.
pub const BUNDLE_KEY: &str = "bundle.yaml";

/// Largest bundle: the limit of the API server for a Secret, less its own fields.
pub const MAX_BUNDLE_BYTES: usize = (1 << 20) - (16 << 10);

/// Labels of namespaces, by their name.
pub type Namespaces = BTreeMap<String, BTreeMap<String, String>>;

/// Gives the keys of a Secret, by namespace and name; nothing if there is no such Secret.
pub type SecretReader<'a> = dyn Fn(&str, &str) -> Option<BTreeMap<String, Vec<u8>>> + 'a;

/// Reference of a resource to a key of a Secret.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Reference {
    /// Namespace of the resource, and so of the Secret.
    pub namespace: String,
    /// Name of the Secret.
    pub name: String,
    /// Key within it.
    pub key: String,
}

/// A bundle, and the result for each observer.
#[derive(Clone, Debug)]
pub struct CompiledBundle {
    /// Its text, which holds secrets.
    pub text: crate::config::Redacted,
    /// Result for each selected observer, ordered by namespace and name.
    pub observers: Vec<ObserverResult>,
}

/// Result of compiling one observer into a bundle.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObserverResult {
    /// Namespace of the observer.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its generation.
    pub generation: i64,
    /// Whether it is in the bundle.
    pub inclusion: Inclusion,
}

/// Whether an observer is in the bundle.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Inclusion {
    /// It is in the bundle.
    Included,
    /// It is suspended.
    Suspended,
    /// It is invalid: a sentence for each mistake, with its field.
    Invalid(Vec<String>),
    /// It refers to secrets that do not exist: a sentence for each.
    Unresolved(Vec<String>),
}

/// Why a bundle could not be compiled.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BundleError {
    /// The listener is invalid.
    #[error("{}", .0.join("; "))]
    Invalid(Vec<String>),
    /// The listener refers to secrets that do not exist.
    #[error("{}", .0.join("; "))]
    Unresolved(Vec<String>),
    /// The bundle does not fit into a Secret.
    #[error(
        "the observers and secrets take {bytes} bytes and at most {MAX_BUNDLE_BYTES} fit into one listener; \
         spread the observers over several listeners"
    )]
    TooLarge {
        /// Its size.
        bytes: usize,
    },
}

/// Collects the secrets that the spec of a resource refers to.
#[must_use]
pub fn references(namespace: &str, spec: &impl serde::Serialize) -> BTreeSet<Reference> {
    let mut found = BTreeSet::new();
    let spec = serde_json::to_value(spec).unwrap_or_default();
    collect(namespace, &spec, &mut found);
    found
}

fn collect(namespace: &str, value: &Value, found: &mut BTreeSet<Reference>) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                let text = |key: &str| value.get(key).and_then(Value::as_str).map(str::to_owned);
                if name == "secretKeyRef"
                    && let (Some(name), Some(key)) = (text("name"), text("key"))
                {
                    found.insert(Reference {
                        namespace: namespace.to_owned(),
                        name,
                        key,
                    });
                } else if name != "podTemplate" {
                    // What the pods get from Secrets by themselves is not the listener's.
                    collect(namespace, value, found);
                }
            }
        }
        Value::Array(items) => items
            .iter()
            .for_each(|item| collect(namespace, item, found)),
        _ => {}
    }
}

/// Compiles the bundle of a listener and the observers that it selects.
pub fn compile(
    listener: &ObserverListener,
    observers: &[&Observer],
    namespaces: &Namespaces,
    secrets: &SecretReader<'_>,
) -> Result<CompiledBundle, BundleError> {
    let own = listener.namespace().unwrap_or_default();
    let head = listener_document(listener);
    let mut used = references(&own, &listener.spec);
    let missing = missing(&used, secrets);
    if !missing.is_empty() {
        return Err(BundleError::Unresolved(missing));
    }
    // What only concerns the pods is to be right too.
    let whole = document("ObserverListener", listener, &listener.spec);
    let diagnostics = check(&whole, &used, secrets);
    if !diagnostics.is_empty() {
        return Err(BundleError::Invalid(diagnostics));
    }
    let mut observers = observers.to_vec();
    observers.sort_by_key(|observer| (observer.namespace(), observer.name_any()));
    let mut documents = vec![head];
    let mut around = BTreeSet::new();
    let mut results = Vec::with_capacity(observers.len());
    for observer in observers {
        let namespace = observer.namespace().unwrap_or_default();
        let document = observer_document(observer);
        let needs = references(&namespace, &observer.spec);
        let inclusion = check_observer(observer, &document, &needs, secrets);
        if inclusion == Inclusion::Included {
            documents.push(document);
            used.extend(needs);
            around.insert(namespace.clone());
        }
        results.push(ObserverResult {
            namespace,
            name: observer.name_any(),
            generation: observer.metadata.generation.unwrap_or_default(),
            inclusion,
        });
    }
    if listener.spec.observer_namespaces.from == NamespacesFrom::Selector {
        let labelled = around.iter().map(|name| json!({
            "apiVersion": "v1",
            "kind": "Namespace",
            "metadata": { "name": name, "labels": namespace_labels(name, namespaces.get(name)) },
        }));
        documents.extend(labelled);
    }
    documents.extend(secret_documents(&used, secrets));
    let text = stream(&documents);
    if text.len() > MAX_BUNDLE_BYTES {
        return Err(BundleError::TooLarge { bytes: text.len() });
    }
    Ok(CompiledBundle {
        text: crate::config::Redacted::new(text),
        observers: results,
    })
}

fn check_observer(
    observer: &Observer,
    document: &Value,
    needs: &BTreeSet<Reference>,
    secrets: &SecretReader<'_>,
) -> Inclusion {
    let missing = missing(needs, secrets);
    if !missing.is_empty() {
        return Inclusion::Unresolved(missing);
    }
    let diagnostics = check(document, needs, secrets);
    if !diagnostics.is_empty() {
        return Inclusion::Invalid(diagnostics);
    }
    if observer.spec.suspend {
        Inclusion::Suspended
    } else {
        Inclusion::Included
    }
}

/// Validates a resource, and returns a sentence for each mistake, which begins with the field.
fn check(document: &Value, needs: &BTreeSet<Reference>, secrets: &SecretReader<'_>) -> Vec<String> {
    let mut documents = vec![document.clone()];
    documents.extend(secret_documents(needs, secrets));
    let sentence = |diagnostic: Diagnostic| {
        let field = diagnostic.path.split_once(": ").map(|(_, field)| field);
        match field {
            Some(field) => format!("{field}: {}", diagnostic.message),
            None => diagnostic.message,
        }
    };
    check_alone(stream(&documents))
        .into_iter()
        .map(sentence)
        .collect()
}

fn missing(needs: &BTreeSet<Reference>, secrets: &SecretReader<'_>) -> Vec<String> {
    let sentence = |need: &Reference| {
        let Reference {
            namespace,
            name,
            key,
        } = need;
        match secrets(namespace, name) {
            None => Some(format!(
                "there is no Secret `{name}` in namespace `{namespace}`; create it with key `{key}`"
            )),
            Some(keys) if !keys.contains_key(key) => Some(format!(
                "Secret `{name}` in namespace `{namespace}` has no key `{key}`; add it"
            )),
            Some(_) => None,
        }
    };
    needs.iter().filter_map(sentence).collect()
}

fn listener_document(listener: &ObserverListener) -> Value {
    let mut document = document("ObserverListener", listener, &listener.spec);
    if let Some(spec) = document.get_mut("spec").and_then(Value::as_object_mut) {
        // Not for the pods to know: a change of these is not a change of what they run.
        for field in ["replicas", "podTemplate", "deletionPolicy"] {
            spec.remove(field);
        }
        // Whether there are pods for jobs decides who works on them; how many does not.
        if let Some(replicas) = spec
            .get_mut("queue")
            .and_then(|queue| queue.pointer_mut("/workers/replicas"))
            .filter(|replicas| replicas.as_i64().is_some_and(|replicas| replicas > 1))
        {
            *replicas = json!(1);
        }
    }
    document
}

fn observer_document(observer: &Observer) -> Value {
    document("Observer", observer, &observer.spec)
}

fn document(kind: &str, resource: &impl ResourceExt, spec: &impl serde::Serialize) -> Value {
    json!({
        "apiVersion": format!("{GROUP}/{VERSION}"),
        "kind": kind,
        "metadata": {
            "name": resource.name_any(),
            "namespace": resource.namespace().unwrap_or_default(),
            "labels": resource.labels(),
        },
        "spec": spec,
    })
}

/// Documents of the Secrets that are referred to, with no other keys than those.
fn secret_documents(used: &BTreeSet<Reference>, secrets: &SecretReader<'_>) -> Vec<Value> {
    let mut found: BTreeMap<(&str, &str), BTreeMap<&str, String>> = BTreeMap::new();
    for Reference {
        namespace,
        name,
        key,
    } in used
    {
        if let Some(value) = secrets(namespace, name).and_then(|mut keys| keys.remove(key)) {
            let keys = found.entry((namespace, name)).or_default();
            keys.insert(key, STANDARD.encode(value));
        }
    }
    let document = |((namespace, name), data)| {
        json!({
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": { "name": name, "namespace": namespace },
            "data": data,
        })
    };
    found.into_iter().map(document).collect()
}

/// Joins documents, one a line: JSON is YAML, and is written the same way each time.
fn stream(documents: &[Value]) -> String {
    let lines: Vec<String> = documents.iter().map(Value::to_string).collect();
    lines.join("\n---\n") + "\n"
}
