//! From the text of resource files to the bundle that a listener runs.
//!
//! Nothing is read but what is passed in. Every problem of every file is reported at once, each
//! with its line and with what would be right, and no message holds a secret.

mod action;
mod checks;
mod document;
mod egress;
mod listener;
mod mend;
mod observer;
mod pod_template;
mod queue;
mod report;
mod scalar;
mod schema;
mod secrets;
mod tls;
mod yaml;

use std::collections::BTreeMap;

use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::config::{Bundle, ListenerConfig, ObserverConfig, Redacted};
use crate::resources::{LabelSelector, ObserverListenerSpec, ObserverNamespaces, ObserverSpec};
use checks::{Checks, LABEL_RULE, Meta, SECRET_NAME_RULE, is_domain, is_label};
use document::Document;
use schema::Kind;
use secrets::Secrets;

pub use report::{Locations, Problem, Report};

/// A file that the caller has read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceFile {
    /// Its name, as problems show it.
    pub path: String,
    /// Its text: any number of YAML documents.
    pub text: String,
}

/// What a listener runs from, and where it was written.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The listener and the observers it selects.
    pub bundle: Bundle,
    /// Where the fields of those observers stand.
    pub locations: Locations,
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
) -> Result<Loaded, Report> {
    let mut loader = Loader::default();
    loader.take(files, secrets);
    let bundle = loader.choose(listener);
    loader.finish(files, bundle)
}

/// Reads what the operator wrote for the pods of a listener: resources that were checked, with
/// the secrets they name. Without an observer there is nothing to do, and that is fine.
pub fn load_bundle(text: &str) -> Result<Bundle, Report> {
    let files = [SourceFile {
        path: "bundle.yaml".into(),
        text: text.into(),
    }];
    let mut loader = Loader::default();
    loader.take(&files, &|_, _| None);
    let bundle = loader.choose(None);
    loader.finish(&files, bundle).map(|loaded| loaded.bundle)
}

/// Checks one resource by itself, with the secrets that stand beside it. Gives everything that is
/// wrong with it.
pub(crate) fn check_alone(text: String) -> Vec<Problem> {
    let mut loader = Loader::default();
    let path = String::new();
    loader.take(&[SourceFile { path, text }], &|_, _| None);
    loader.problems
}

/// What has been made out so far.
#[derive(Default)]
struct Loader {
    problems: Vec<Problem>,
    /// Something could not be read, so what seems to be missing may be in there.
    gaps: bool,
    /// First place of each resource.
    seen: BTreeMap<(&'static str, String), String>,
    listeners: Vec<Candidate>,
    /// Labels of the namespaces that have a document.
    namespaces: BTreeMap<String, BTreeMap<String, String>>,
    observers: Vec<Seen>,
    locations: Locations,
}

struct Seen {
    meta: Meta,
    config: ObserverConfig,
    suspended: bool,
}

struct Candidate {
    config: ListenerConfig,
    selector: LabelSelector,
    from: ObserverNamespaces,
    /// Where a problem with its selector would stand, should it pass over all observers; nothing if
    /// there is one already.
    idle: Option<Problem>,
}

impl Loader {
    /// Reads and checks everything.
    fn take(&mut self, files: &[SourceFile], store: &secrets::Store<'_>) {
        let documents = self.read(files);
        let secrets = self.take_secrets(&documents, store);
        for (kind, document) in &documents {
            self.check(*kind, document, &secrets);
        }
    }

    fn read(&mut self, files: &[SourceFile]) -> Vec<(Kind, Document)> {
        let mut documents = Vec::new();
        for file in files {
            let reading = yaml::read(file);
            self.gaps |= reading.gaps;
            self.problems.extend(reading.problems);
            for mut document in reading.documents {
                let Some(kind) = schema::kind(&document, &mut self.problems) else {
                    self.gaps = true;
                    continue;
                };
                schema::check(kind, &mut document, &mut self.problems);
                self.check_meta(kind, &document);
                documents.push((kind, document));
            }
        }
        documents
    }

    fn check_meta(&mut self, kind: Kind, document: &Document) {
        let meta = Meta::of(document);
        let mended = |pointer: &str| document.mended.contains(pointer);
        let (proper, rule) = match kind {
            Kind::Secret => (is_domain(&meta.name), SECRET_NAME_RULE),
            Kind::Listener | Kind::Observer | Kind::Namespace => (is_label(&meta.name), LABEL_RULE),
        };
        let name_at = "/metadata/name";
        if mended(name_at) || mended("/metadata") {
            return;
        }
        if !proper {
            self.problems.push(document.problem(name_at, rule));
        }
        if !is_label(&meta.namespace) {
            let problem = document.problem("/metadata/namespace", LABEL_RULE);
            self.problems.push(problem);
        }
        let line = document.line(name_at).unwrap_or_default();
        let here = format!("{}:{line}", document.file);
        if let Some(first) = self.seen.get(&(kind.name(), meta.identity())) {
            let message = format!(
                "the same {} is there already, at {first}; keep one of them",
                kind.name()
            );
            self.problems.push(document.problem(name_at, message));
        } else {
            self.seen.insert((kind.name(), meta.identity()), here);
        }
    }

    fn take_secrets<'a>(
        &mut self,
        documents: &[(Kind, Document)],
        store: &'a secrets::Store<'a>,
    ) -> Secrets<'a> {
        let mut secrets = Secrets::new(store);
        for (_, document) in documents.iter().filter(|(kind, _)| *kind == Kind::Secret) {
            let meta = Meta::of(document);
            secrets.insert(&meta.namespace, &meta.name, document, &mut self.problems);
        }
        secrets
    }

    fn check(&mut self, kind: Kind, document: &Document, secrets: &Secrets<'_>) {
        let meta = Meta::of(document);
        let mut checks = Checks {
            document,
            secrets,
            namespace: &meta.namespace,
            problems: &mut self.problems,
        };
        match kind {
            Kind::Secret => {}
            Kind::Namespace => {
                self.namespaces.insert(meta.name, meta.labels);
            }
            Kind::Listener => {
                let Some(spec) = spec::<ObserverListenerSpec>(&mut checks) else {
                    return;
                };
                let config = listener::check(&spec, &meta, &mut checks);
                let identity = config.identity();
                // A second one of the same name has been reported, and is no choice.
                if self
                    .listeners
                    .iter()
                    .any(|other| other.config.identity() == identity)
                {
                    return;
                }
                self.listeners.push(Candidate {
                    config,
                    selector: spec.observer_selector.unwrap_or_default(),
                    from: spec.observer_namespaces,
                    idle: (!document.is_mended_within("/spec/observerSelector"))
                        .then(|| document.problem("/spec/observerSelector", "")),
                });
            }
            Kind::Observer => {
                let Some(spec) = spec::<ObserverSpec>(&mut checks) else {
                    return;
                };
                let config = observer::check(&spec, &meta, &mut checks);
                // With other labels, it might be what a listener selects.
                self.gaps |= document.is_mended_within("/metadata");
                self.locations
                    .insert(config.identity(), &document.file, &document.lines);
                let suspended = spec.suspend;
                self.observers.push(Seen {
                    meta,
                    config,
                    suspended,
                });
            }
        }
    }

    /// The listener that was asked for with what it selects, or a problem.
    fn choose(&mut self, wanted: Option<&str>) -> Option<Bundle> {
        let fits = |candidate: &&Candidate| {
            wanted.is_none_or(|wanted| {
                wanted == candidate.config.name || wanted == candidate.config.identity()
            })
        };
        let chosen: Vec<&Candidate> = self.listeners.iter().filter(fits).collect();
        let [chosen] = chosen.as_slice() else {
            self.report_choice(wanted, chosen.len());
            return None;
        };
        let own = &chosen.config.namespace;
        let in_reach = |seen: &&Seen| {
            let namespace = &seen.meta.namespace;
            let labels = namespace_labels(namespace, self.namespaces.get(namespace));
            chosen.from.contain(namespace, &labels, own)
        };
        let selected = |seen: &&Seen| in_reach(seen) && chosen.selector.matches(&seen.meta.labels);
        let mut observers: Vec<ObserverConfig> = self
            .observers
            .iter()
            .filter(selected)
            .filter(|seen| !seen.suspended)
            .map(|seen| seen.config.clone())
            .collect();
        observers.sort_by(|a, b| (&a.namespace, &a.name).cmp(&(&b.namespace, &b.name)));
        if let Some(place) = &chosen.idle
            && observers.is_empty()
            && !self.gaps
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
                self.problems.push(Problem {
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

    fn report_choice(&mut self, wanted: Option<&str>, count: usize) {
        let names: Vec<String> = self
            .listeners
            .iter()
            .map(|candidate| candidate.config.identity())
            .collect();
        let names = names.join(", ");
        let message = match (wanted, count) {
            _ if self.gaps && count == 0 => return,
            _ if names.is_empty() => "there is no ObserverListener in the files; add one".into(),
            (Some(_), 0) => {
                format!("there is no ObserverListener of the name asked for; there are: {names}")
            }
            _ => format!("there are several ObserverListeners; name one of them: {names}"),
        };
        self.problems.push(Problem {
            file: String::new(),
            line: None,
            path: String::new(),
            message,
        });
    }

    fn finish(mut self, files: &[SourceFile], bundle: Option<Bundle>) -> Result<Loaded, Report> {
        match bundle {
            Some(bundle) if self.problems.is_empty() => Ok(Loaded {
                bundle,
                locations: self.locations,
            }),
            _ => {
                let place = |problem: &Problem| {
                    let file = files.iter().position(|file| file.path == problem.file);
                    (file.unwrap_or(files.len()), problem.line)
                };
                self.problems.sort_by_key(place);
                Err(Report {
                    problems: self.problems,
                    partial: self.observers.into_iter().map(|seen| seen.config).collect(),
                    locations: self.locations,
                })
            }
        }
    }
}

/// The labels that a namespace has in the cluster.
#[must_use]
pub fn namespace_labels(
    name: &str,
    labels: Option<&BTreeMap<String, String>>,
) -> BTreeMap<String, String> {
    let mut labels = labels.cloned().unwrap_or_default();
    labels.insert("kubernetes.io/metadata.name".into(), name.into());
    labels
}

/// The `spec` of a document that fits its schema.
fn spec<T: DeserializeOwned>(checks: &mut Checks<'_>) -> Option<T> {
    let spec = checks.document.value.get("spec").cloned();
    let spec = serde_json::from_value(spec.unwrap_or(Value::Null)).ok();
    if spec.is_none() {
        let message = "does not have the form that its schema promises";
        let problem = checks.document.problem("/spec", message);
        checks.problems.push(problem);
    }
    spec
}
