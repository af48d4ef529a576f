//! The bundle: everything that the pods of one listener run, as one text in the format of
//! the files that users write.
//!
//! Compiling is a pure function of the resources and the secrets. An observer that cannot run is
//! left out with its reason, and the others run. The same resources give the same text, in
//! any order.

mod checked;
mod packed;
mod references;

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt;
use serde_json::{Value, json};

use crate::config::{Egress, Redacted};
use crate::endpoints::{self, Endpoint};
use crate::loader::{check_alone, namespace_labels};
use crate::manifest::Diagnostic;
use crate::v1alpha1::{GROUP, NamespacesFrom, Observer, ObserverListener, VERSION};
pub use checked::CheckedObservers;
use checked::{Endpoints, EndpointsByDigest, check_observer};
pub use packed::{
    BUNDLE_KEY, BUNDLE_NAME, HASH_ANNOTATION, LISTENER_KEY, MAX_PARTS, MAX_SECRET_BYTES,
    MAX_TEXT_BYTES, PARTS_ANNOTATION, PackedBundle, UnpackError, hash, part_name, unpack,
};
use packed::{Limits, Room};
pub(crate) use references::references_of;
pub use references::{Reference, SecretReader, references};
use references::{missing, secret_documents};

/// What stands between two documents of a text, and in none.
pub(crate) const DOCUMENT_END: &str = "\n---\n";

/// Labels of namespaces, by their name.
pub type Namespaces = BTreeMap<String, BTreeMap<String, String>>;

/// A bundle, and the result for each observer.
#[derive(Clone, Debug)]
pub struct CompiledBundle {
    /// Its text, which holds secrets.
    pub text: Redacted,
    /// The same as it is stored.
    pub packed: PackedBundle,
    /// The listener alone with its own secrets, as a text of the same format.
    pub listener: Redacted,
    /// Result for each selected observer, ordered by namespace and name.
    pub observers: Vec<ObserverResult>,
    /// What the listener and the observers in the bundle connect to.
    pub endpoints: BTreeSet<Endpoint>,
    /// Where observers may connect to.
    pub egress: Egress,
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
    /// Older ones take all the room that there is: says so, with the remedy.
    LeftOut(String),
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
    /// The listener alone is too large.
    #[error(
        "the listener and its secrets take {bytes} bytes, of which at most {MAX_SECRET_BYTES} fit into a Secret; make \
         them smaller"
    )]
    TooLarge {
        /// Its size.
        bytes: usize,
    },
}

/// An observer that is to be in a bundle.
struct Candidate {
    /// Its place among the results.
    result: usize,
    /// Its document, as one line.
    line: String,
    namespace: String,
    needs: BTreeSet<Reference>,
    endpoints: Endpoints,
}

/// Compiles the bundle of a listener and the observers that it selects. If they do not all fit, the newest are left out.
pub fn compile(
    listener: &ObserverListener,
    observers: &[&Observer],
    namespaces: &Namespaces,
    secrets: &SecretReader<'_>,
    checked: &mut CheckedObservers,
) -> Result<CompiledBundle, BundleError> {
    let given = Given {
        namespaces,
        secrets,
        limits: Limits::DEFAULT,
    };
    compile_within(listener, observers, given, checked)
}

/// What a bundle is compiled from beside the resources, and how large it may be.
#[derive(Clone, Copy)]
struct Given<'a> {
    namespaces: &'a Namespaces,
    secrets: &'a SecretReader<'a>,
    limits: Limits,
}

fn compile_within(
    listener: &ObserverListener,
    observers: &[&Observer],
    given: Given<'_>,
    checked: &mut CheckedObservers,
) -> Result<CompiledBundle, BundleError> {
    let (secrets, limits) = (given.secrets, given.limits);
    let head = Head::new(listener, secrets)?;
    let mut observers = observers.to_vec();
    observers.sort_by_cached_key(|observer| age(observer));
    let mut valid = EndpointsByDigest::with_capacity(checked.0.len());
    let mut candidates = Vec::new();
    let mut results = Vec::with_capacity(observers.len());
    for observer in observers {
        let namespace = observer.namespace().unwrap_or_default();
        let document = document("Observer", observer, &observer.spec);
        let (line, needs) = (document.to_string(), references_of(&namespace, &document));
        let inclusion = match check_observer(&line, &needs, secrets, (&checked.0, &mut valid)) {
            Ok(_) if observer.spec.suspend => Inclusion::Suspended,
            Ok(endpoints) => {
                candidates.push(Candidate {
                    result: results.len(),
                    line,
                    namespace: namespace.clone(),
                    needs,
                    endpoints,
                });
                Inclusion::Included
            }
            Err(inclusion) => inclusion,
        };
        results.push(ObserverResult {
            namespace,
            name: observer.name_any(),
            generation: observer.metadata.generation.unwrap_or_default(),
            inclusion,
        });
    }
    checked.0 = valid;
    let (text, packed, kept) = fit(&head, &candidates, given)?;
    for one in &candidates[kept..] {
        results[one.result].inclusion = Inclusion::LeftOut(format!(
            "the {kept} older observers take all the room that one listener has ({} MiB as text, {} MiB compressed); \
             make some of them smaller, or have another listener select it",
            limits.text >> 20,
            (limits.secret * limits.parts).div_ceil(1 << 20),
        ));
    }
    results.sort_by(|a, b| (&a.namespace, &a.name).cmp(&(&b.namespace, &b.name)));
    let mut endpoints = head.endpoints;
    for one in &candidates[..kept] {
        endpoints.extend(one.endpoints.iter().cloned());
    }
    Ok(CompiledBundle {
        text: Redacted::new(text),
        packed,
        listener: Redacted::new(head.text),
        observers: results,
        endpoints,
        egress: head.egress,
    })
}

/// Returns the sort key by which observers get room: the oldest first.
fn age(observer: &Observer) -> (Option<Time>, String, String) {
    let created = observer.metadata.creation_timestamp.clone();
    let namespace = observer.namespace().unwrap_or_default();
    (created, namespace, observer.name_any())
}

/// The listener of a bundle.
struct Head {
    /// Its document, as one line.
    line: String,
    needs: BTreeSet<Reference>,
    /// Whether the pods select by the labels of namespaces.
    needs_labels: bool,
    /// The document with its secrets.
    text: String,
    endpoints: BTreeSet<Endpoint>,
    egress: Egress,
}

impl Head {
    fn new(listener: &ObserverListener, secrets: &SecretReader<'_>) -> Result<Self, BundleError> {
        let own = listener.namespace().unwrap_or_default();
        let mut document = document("ObserverListener", listener, &listener.spec);
        let needs = references_of(&own, &document);
        let missing = missing(&needs, secrets);
        if !missing.is_empty() {
            return Err(BundleError::Unresolved(missing));
        }
        // What only concerns the pods is to be right too.
        let checked = check_alone(alone(&document.to_string(), &needs, secrets));
        let config = match checked.listener {
            Some(config) if checked.diagnostics.is_empty() => config,
            _ => return Err(BundleError::Invalid(sentences(checked.diagnostics))),
        };
        remove_fields_of_operator(&mut document);
        let line = document.to_string();
        let text = alone(&line, &needs, secrets);
        if text.len() > MAX_SECRET_BYTES {
            return Err(BundleError::TooLarge { bytes: text.len() });
        }
        Ok(Self {
            line,
            needs,
            needs_labels: listener.spec.observer_namespaces.from == NamespacesFrom::Selector,
            text,
            endpoints: endpoints::of_listener(&config),
            egress: config.egress,
        })
    }

    /// Returns the text with these observers.
    fn with(&self, observers: &[Candidate], given: Given<'_>) -> String {
        let mut used = self.needs.clone();
        let mut around = BTreeSet::new();
        for one in observers {
            used.extend(one.needs.iter().cloned());
            around.insert(&*one.namespace);
        }
        let mut more = Vec::new();
        if self.needs_labels {
            let labelled = around.iter().map(|name| json!({
                "apiVersion": "v1",
                "kind": "Namespace",
                "metadata": { "name": name, "labels": namespace_labels(name, given.namespaces.get(*name)) },
            }));
            more.extend(labelled);
        }
        more.extend(secret_documents(&used, given.secrets));
        let observers = observers.iter().map(|one| &*one.line);
        stream([&*self.line].into_iter().chain(observers), &more)
    }
}

/// Returns the text and its compressed form with as many of the observers as fit, and how many these are.
fn fit(
    head: &Head,
    candidates: &[Candidate],
    given: Given<'_>,
) -> Result<(String, PackedBundle, usize), BundleError> {
    let mut kept = candidates.len();
    loop {
        let text = head.with(&candidates[..kept], given);
        if let Some(packed) = PackedBundle::new(&text, head.text.len(), given.limits) {
            return Ok((text, packed, kept));
        }
        if kept == 0 {
            return Err(BundleError::TooLarge { bytes: text.len() });
        }
        // What is estimated may still be a little too much.
        let most = kept - kept.div_ceil(32);
        kept = estimate(head, &candidates[..kept], given).min(most);
    }
}

/// Returns how many of the observers fit with their secrets, about.
fn estimate(head: &Head, candidates: &[Candidate], given: Given<'_>) -> usize {
    let mut room = Room::new(head.text.len(), given.limits);
    if !room.add(&head.text) {
        return 0;
    }
    let mut used = head.needs.clone();
    let fits = |one: &&Candidate| {
        let new: BTreeSet<Reference> = one.needs.difference(&used).cloned().collect();
        let text = alone(&one.line, &new, given.secrets);
        used.extend(new);
        room.add(&text)
    };
    candidates.iter().take_while(fits).count()
}

/// Returns a sentence for each mistake, which begins with the field.
fn sentences(diagnostics: Vec<Diagnostic>) -> Vec<String> {
    let sentence = |diagnostic: Diagnostic| {
        let field = diagnostic.path.split_once(": ").map(|(_, field)| field);
        match field {
            Some(field) => format!("{field}: {}", diagnostic.message),
            None => diagnostic.message,
        }
    };
    diagnostics.into_iter().map(sentence).collect()
}

/// Removes what the pods need not know: a change of these fields is not a change of what they run.
fn remove_fields_of_operator(document: &mut Value) {
    if let Some(spec) = document.get_mut("spec").and_then(Value::as_object_mut) {
        for field in [
            "replicas",
            "autoscaling",
            "networkPolicy",
            "podTemplate",
            "deletionPolicy",
        ] {
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

/// Returns the text of a resource, as one line, and the secrets that it refers to.
fn alone(line: &str, needs: &BTreeSet<Reference>, secrets: &SecretReader<'_>) -> String {
    stream([line].into_iter(), &secret_documents(needs, secrets))
}

/// Joins documents, one a line: JSON is YAML, and is written the same way each time.
fn stream<'a>(lines: impl Iterator<Item = &'a str>, more: &[Value]) -> String {
    let mut text = String::new();
    for line in lines {
        text += line;
        text += DOCUMENT_END;
    }
    for document in more {
        text += &document.to_string();
        text += DOCUMENT_END;
    }
    text.truncate(text.len().saturating_sub(DOCUMENT_END.len()));
    text + "\n"
}

#[cfg(test)]
mod tests;
