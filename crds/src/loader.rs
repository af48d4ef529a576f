//! Loader: from the text of resource files to the configuration that a listener runs.
//!
//! It reads nothing but what is passed in. Every mistake of every file is reported at once, each with
//! its line and the remedy, and no message holds a secret.

mod bundle;

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};

use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::bundle::{Reference, references_of};
use crate::config::{Bundle, ListenerConfig, ObserverConfig, Redacted};
use crate::manifest::document::{Document, Metadata};
use crate::manifest::schema::Kind;
use crate::manifest::secrets::{SecretStore, Secrets};
use crate::manifest::{Diagnostic, Diagnostics, SourceFile, SourceMap, schema, yaml};
use crate::v1alpha1::{LabelSelector, ObserverListenerSpec, ObserverNamespaces, ObserverSpec};
use crate::validation::context::ValidationContext;
use crate::validation::names::{LABEL_RULE, SECRET_NAME_RULE, is_label, is_secret_name};
use crate::validation::{listener, observer};
pub use bundle::{BundleReader, ObserverHeader, load_bundle};

/// Configuration that a listener runs, and where its fields stand in the files.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The listener and the observers that it selects.
    pub bundle: Bundle,
    /// Lines of the fields of those observers.
    pub source_map: SourceMap,
}

/// Reads resource files.
///
/// `secrets(name, key)` is asked for what no `Secret` document has, and never for a name or key
/// that leads out of a directory. `listener` names the one to run, as `name` or
/// `namespace/name`, and may be absent where the files hold a single one. The whole of the files
/// must be right, also what that listener does not select.
pub fn load(
    files: &[SourceFile],
    secrets: &dyn Fn(&str, &str) -> Option<Redacted>,
    listener: Option<&str>,
) -> Result<Loaded, Diagnostics> {
    let mut loader = Loader::default();
    loader.add_files(files, secrets);
    let bundle = loader.select_listener(listener);
    loader.finish(files, bundle)
}

/// One resource that was validated by itself.
pub(crate) struct CheckedResource {
    /// Everything that is wrong with it.
    pub(crate) diagnostics: Vec<Diagnostic>,
    /// What it is configured as, if it is a listener.
    pub(crate) listener: Option<ListenerConfig>,
    /// What it is configured as, if it is an observer.
    pub(crate) observer: Option<ObserverConfig>,
}

/// Validates one resource with the Secrets beside it.
pub(crate) fn check_alone(text: String) -> CheckedResource {
    let mut loader = Loader::default();
    let path = String::new();
    loader.add_files(&[SourceFile { path, text }], &|_, _| None);
    CheckedResource {
        diagnostics: loader.diagnostics,
        listener: loader.listeners.pop().map(|one| one.config),
        observer: loader.observers.pop().map(|one| one.config),
    }
}

/// Resources that have been read so far.
#[derive(Default)]
struct Loader {
    diagnostics: Vec<Diagnostic>,
    /// Whether something could not be read, so that what seems to be missing may be in there.
    incomplete: bool,
    /// File and line of the first definition of each resource.
    seen: BTreeMap<(&'static str, String), String>,
    listeners: Vec<ParsedListener>,
    /// Labels of the namespaces that have a document.
    namespaces: BTreeMap<String, BTreeMap<String, String>>,
    observers: Vec<ParsedObserver>,
    source_map: SourceMap,
}

struct ParsedObserver {
    meta: Metadata,
    config: ObserverConfig,
    suspended: bool,
    needs: BTreeSet<Reference>,
}

struct ParsedListener {
    config: ListenerConfig,
    selector: LabelSelector,
    from: ObserverNamespaces,
    /// Where a problem with its selector would stand, should it pass over all observers; nothing if
    /// there is one already.
    empty_selection: Option<Diagnostic>,
}

impl ParsedListener {
    /// Returns whether it takes observers of a namespace with these labels.
    fn reaches(&self, namespace: &str, labels: Option<&BTreeMap<String, String>>) -> bool {
        let labels = namespace_labels(namespace, labels);
        self.from
            .contain(namespace, &labels, &self.config.namespace)
    }
}

impl Loader {
    /// Reads and validates files.
    fn add_files(&mut self, files: &[SourceFile], store: &SecretStore<'_>) {
        let documents = self.parse(files);
        let secrets = self.collect_secrets(&documents, store);
        self.validate_all(&documents, &secrets);
    }

    fn validate_all(&mut self, documents: &[(Kind, Document)], secrets: &Secrets<'_>) {
        for (kind, document) in documents {
            self.validate(*kind, document, secrets);
        }
    }

    fn parse(&mut self, files: &[SourceFile]) -> Vec<(Kind, Document)> {
        let mut documents = Vec::new();
        for file in files {
            let stream = yaml::parse(file);
            self.incomplete |= stream.incomplete;
            self.diagnostics.extend(stream.diagnostics);
            for mut document in stream.documents {
                let Some(kind) = schema::kind(&document, &mut self.diagnostics) else {
                    self.incomplete = true;
                    continue;
                };
                schema::check(kind, &mut document, &mut self.diagnostics);
                self.validate_metadata(kind, &document);
                documents.push((kind, document));
            }
        }
        documents
    }

    fn validate_metadata(&mut self, kind: Kind, document: &Document) {
        let meta = Metadata::of(document);
        let is_placeholder = |pointer: &str| document.placeholders.contains(pointer);
        let (proper, rule) = match kind {
            Kind::Secret => (is_secret_name(&meta.name), SECRET_NAME_RULE),
            Kind::Listener | Kind::Observer | Kind::Namespace => (is_label(&meta.name), LABEL_RULE),
        };
        let name_at = "/metadata/name";
        if is_placeholder(name_at) || is_placeholder("/metadata") {
            return;
        }
        if !proper {
            self.diagnostics.push(document.diagnostic(name_at, rule));
        }
        if !is_label(&meta.namespace) {
            let diagnostic = document.diagnostic("/metadata/namespace", LABEL_RULE);
            self.diagnostics.push(diagnostic);
        }
        let line = document.line(name_at).unwrap_or_default();
        let here = format!("{}:{line}", document.file);
        if let Some(message) = self.see(kind.name(), meta.identity(), here) {
            self.diagnostics.push(document.diagnostic(name_at, message));
        }
    }

    /// Notes where a resource is. Returns what is wrong if it is there already.
    fn see(&mut self, kind: &'static str, identity: String, here: String) -> Option<String> {
        match self.seen.entry((kind, identity)) {
            Entry::Occupied(first) => Some(format!(
                "the same {kind} is there already, at {}; keep one of them",
                first.get()
            )),
            Entry::Vacant(place) => {
                place.insert(here);
                None
            }
        }
    }

    fn collect_secrets<'a>(
        &mut self,
        documents: &[(Kind, Document)],
        store: &'a SecretStore<'a>,
    ) -> Secrets<'a> {
        let mut secrets = Secrets::new(store);
        for (_, document) in documents.iter().filter(|(kind, _)| *kind == Kind::Secret) {
            let meta = Metadata::of(document);
            secrets.insert(&meta.namespace, &meta.name, document, &mut self.diagnostics);
        }
        secrets
    }

    fn validate(&mut self, kind: Kind, document: &Document, secrets: &Secrets<'_>) {
        let meta = Metadata::of(document);
        let mut context = ValidationContext {
            document,
            secrets,
            namespace: &meta.namespace,
            diagnostics: &mut self.diagnostics,
        };
        match kind {
            Kind::Secret => {}
            Kind::Namespace => {
                self.namespaces.insert(meta.name, meta.labels);
            }
            Kind::Listener => {
                let Some(spec) = spec::<ObserverListenerSpec>(&mut context) else {
                    return;
                };
                let config = listener::check(&spec, &meta, &mut context);
                let identity = config.identity();
                // A second one of the same name has been reported, and is no choice.
                if self
                    .listeners
                    .iter()
                    .any(|other| other.config.identity() == identity)
                {
                    return;
                }
                self.listeners.push(ParsedListener {
                    config,
                    selector: spec.observer_selector.unwrap_or_default(),
                    from: spec.observer_namespaces,
                    empty_selection: (!document.is_placeholder_within("/spec/observerSelector"))
                        .then(|| document.diagnostic("/spec/observerSelector", "")),
                });
            }
            Kind::Observer => {
                let Some(spec) = spec::<ObserverSpec>(&mut context) else {
                    return;
                };
                let config = observer::check(&spec, &meta, &mut context);
                // With other labels, it might be what a listener selects.
                self.incomplete |= document.is_placeholder_within("/metadata");
                self.source_map
                    .insert(config.identity(), &document.file, &document.lines);
                let (suspended, namespace) = (spec.suspend, meta.namespace.clone());
                self.observers.push(ParsedObserver {
                    meta,
                    config,
                    suspended,
                    needs: references_of(&namespace, &document.value),
                });
            }
        }
    }

    /// Returns the requested listener with its observers, or reports why there is none.
    fn select_listener(&mut self, wanted: Option<&str>) -> Option<Bundle> {
        let fits = |listener: &&ParsedListener| {
            wanted.is_none_or(|wanted| {
                wanted == listener.config.name || wanted == listener.config.identity()
            })
        };
        let chosen: Vec<&ParsedListener> = self.listeners.iter().filter(fits).collect();
        let [chosen] = chosen.as_slice() else {
            self.report_selection(wanted, chosen.len());
            return None;
        };
        let own = &chosen.config.namespace;
        let in_reach = |seen: &&ParsedObserver| {
            let namespace = &seen.meta.namespace;
            chosen.reaches(namespace, self.namespaces.get(namespace))
        };
        let selected =
            |seen: &&ParsedObserver| in_reach(seen) && chosen.selector.matches(&seen.meta.labels);
        let mut observers: Vec<ObserverConfig> = self
            .observers
            .iter()
            .filter(selected)
            .filter(|seen| !seen.suspended)
            .map(|seen| seen.config.clone())
            .collect();
        observers.sort_by(|a, b| (&a.namespace, &a.name).cmp(&(&b.namespace, &b.name)));
        if let Some(place) = &chosen.empty_selection
            && observers.is_empty()
            && !self.incomplete
        {
            // None, or all of them suspended, is as good as any number. That the selector passes all
            // of them over is hardly meant.
            let around = self.observers.iter().filter(in_reach).count();
            if !self.observers.is_empty() && !self.observers.iter().any(|seen| selected(&seen)) {
                let message = match around {
                    0 => format!(
                        "reaches none of the observers in the files, as none is in namespace `{own}`"
                    ),
                    _ => format!(
                        "selects none of the {around} observers in namespace `{own}`; compare their labels"
                    ),
                };
                self.diagnostics.push(Diagnostic {
                    message,
                    ..place.clone()
                });
            }
        }
        Some(Bundle {
            listener: chosen.config.clone(),
            observers,
        })
    }

    fn report_selection(&mut self, wanted: Option<&str>, count: usize) {
        let names: Vec<String> = self
            .listeners
            .iter()
            .map(|listener| listener.config.identity())
            .collect();
        let names = names.join(", ");
        let message = match (wanted, count) {
            _ if self.incomplete && count == 0 => return,
            _ if names.is_empty() => "there is no ObserverListener in the files; add one".into(),
            (Some(_), 0) => {
                format!("there is no ObserverListener of the name asked for; there are: {names}")
            }
            _ => format!("there are several ObserverListeners; name one of them: {names}"),
        };
        self.diagnostics.push(Diagnostic {
            file: String::new(),
            line: None,
            path: String::new(),
            message,
        });
    }

    fn finish(self, files: &[SourceFile], bundle: Option<Bundle>) -> Result<Loaded, Diagnostics> {
        match bundle {
            Some(bundle) if self.diagnostics.is_empty() => Ok(Loaded {
                bundle,
                source_map: self.source_map,
            }),
            _ => Err(self.into_diagnostics(files)),
        }
    }

    /// Returns everything that is wrong, in the order of the files.
    fn into_diagnostics(mut self, files: &[SourceFile]) -> Diagnostics {
        let place = |diagnostic: &Diagnostic| {
            let file = files.iter().position(|file| file.path == diagnostic.file);
            (file.unwrap_or(files.len()), diagnostic.line)
        };
        self.diagnostics.sort_by_key(place);
        Diagnostics {
            items: self.diagnostics,
            partial: self.observers.into_iter().map(|seen| seen.config).collect(),
            source_map: self.source_map,
        }
    }
}

/// Labels of a namespace, with the one that the cluster adds.
#[must_use]
pub fn namespace_labels(
    name: &str,
    labels: Option<&BTreeMap<String, String>>,
) -> BTreeMap<String, String> {
    let mut labels = labels.cloned().unwrap_or_default();
    labels.insert("kubernetes.io/metadata.name".into(), name.into());
    labels
}

/// Deserializes the `spec` of a document that fits its schema.
fn spec<T: DeserializeOwned>(context: &mut ValidationContext<'_>) -> Option<T> {
    let spec = context.document.value.get("spec").cloned();
    let spec = serde_json::from_value(spec.unwrap_or(Value::Null)).ok();
    if spec.is_none() {
        let message = "does not have the form that its schema promises";
        let diagnostic = context.document.diagnostic("/spec", message);
        context.diagnostics.push(diagnostic);
    }
    spec
}
