//! A bundle, which the operator compiled for the pods of a listener with the secrets that it refers to. It may be
//! without observers, and longer than a file, so each document is read by itself.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use sha2::{Digest, Sha256};

use super::{Loaded, Loader, ParsedListener, ParsedObserver};
use crate::bundle::{BUNDLE_NAME, DOCUMENT_END, Reference};
use crate::config::{ListenerConfig, ObserverConfig};
use crate::manifest::secrets::{SecretLookup, Secrets};
use crate::manifest::{Diagnostic, Diagnostics, SourceFile, SourceMap};
use crate::v1alpha1::{GROUP, VERSION};

/// Loads a bundle with all of its observers.
pub fn load_bundle(text: &str) -> Result<Loaded, Diagnostics> {
    let mut opened = Opened::new(text);
    for document in std::mem::take(&mut opened.documents) {
        opened.parse(document);
    }
    let bundle = opened.loader.select_listener(None);
    opened.loader.finish(&opened.rest, bundle)
}

/// A bundle of which all is read but the observers that have a line of their own, as the operator writes them.
struct Opened<'t> {
    loader: Loader,
    /// All but the documents of observers.
    rest: Vec<SourceFile>,
    secrets: Secrets<'static>,
    documents: Vec<&'t str>,
}

impl<'t> Opened<'t> {
    fn new(text: &'t str) -> Self {
        let begin = format!("{{\"apiVersion\":\"{GROUP}/{VERSION}\",\"kind\":\"Observer\",");
        // Only the last document of a text ends in a line break.
        let all = text.split(DOCUMENT_END).map(str::trim_end);
        let (documents, rest): (Vec<&str>, Vec<&str>) =
            all.partition(|document| document.starts_with(&begin) && !document.contains('\n'));
        let rest: Vec<SourceFile> = rest.into_iter().map(file).collect();
        let mut loader = Loader::default();
        let parsed = loader.parse(&rest);
        let secrets = loader.collect_secrets(&parsed, &|_, _| None);
        loader.validate_all(&parsed, &secrets);
        Self {
            loader,
            rest,
            secrets,
            documents,
        }
    }

    fn parse(&mut self, document: &str) {
        let documents = self.loader.parse(&[file(document)]);
        self.loader.validate_all(&documents, &self.secrets);
    }
}

/// A bundle whose observers are read one by one: what a document becomes takes many times its room, and one that was
/// read before need not be read again.
pub struct BundleReader<'t> {
    opened: Opened<'t>,
    listener: ParsedListener,
    /// Whether there are observers, and whether the listener selects some of them, suspended or not.
    seen: bool,
    selected: bool,
}

/// What is known of the document of an observer without reading it again.
#[derive(Clone)]
pub struct ObserverHeader {
    /// Namespace of the observer.
    pub namespace: String,
    /// Its name.
    pub name: String,
    labels: BTreeMap<String, String>,
    suspended: bool,
    needs: BTreeSet<Reference>,
    /// Digest of the values that `needs` had.
    secrets: [u8; 32],
}

impl fmt::Debug for ObserverHeader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("ObserverHeader");
        let shown = shown.field("namespace", &self.namespace);
        shown.field("name", &self.name).finish_non_exhaustive()
    }
}

impl<'t> BundleReader<'t> {
    /// Reads all but the observers that have a line of their own, as the operator writes them. Fails where that is
    /// invalid or has not exactly one listener.
    pub fn open(text: &'t str) -> Result<Self, Diagnostics> {
        let mut opened = Opened::new(text);
        if opened.loader.diagnostics.is_empty()
            && opened.loader.listeners.len() == 1
            && let Some(listener) = opened.loader.listeners.pop()
        {
            return Ok(Self {
                opened,
                listener,
                seen: false,
                selected: false,
            });
        }
        // Says which there are.
        opened.loader.select_listener(None);
        Err(opened.loader.into_diagnostics(&opened.rest))
    }

    /// Returns the listener.
    #[must_use]
    pub const fn listener(&self) -> &ListenerConfig {
        &self.listener.config
    }

    /// Returns the documents of observers that have a line of their own.
    #[must_use]
    pub fn documents(&self) -> Vec<&'t str> {
        self.opened.documents.clone()
    }

    /// Returns the observers that have no line of their own and have been read already.
    pub fn others(&mut self) -> Vec<(ObserverHeader, ObserverConfig)> {
        let others = std::mem::take(&mut self.opened.loader.observers);
        let others = others.into_iter();
        others.map(|one| self.split(one)).collect()
    }

    /// Reads the document of an observer. If it is invalid, [`Self::finish`] says why.
    pub fn read(&mut self, document: &str) -> Option<(ObserverHeader, ObserverConfig)> {
        let before = self.opened.loader.diagnostics.len();
        self.opened.parse(document);
        self.opened.loader.source_map = SourceMap::default();
        let one = self.opened.loader.observers.pop()?;
        (self.opened.loader.diagnostics.len() == before).then(|| self.split(one))
    }

    /// Takes an observer that was read from the same document before. Returns whether it is as it was: its secrets
    /// have the values that they had.
    pub fn reuse(&mut self, known: &ObserverHeader) -> bool {
        if known.secrets != self.digest(&known.needs) {
            return false;
        }
        let identity = format!("{}/{}", known.namespace, known.name);
        let path = format!("Observer {identity}");
        let loader = &mut self.opened.loader;
        if let Some(message) = loader.see("Observer", identity, BUNDLE_NAME.to_owned()) {
            loader.diagnostics.push(Diagnostic {
                file: BUNDLE_NAME.to_owned(),
                line: None,
                path,
                message,
            });
        }
        true
    }

    /// Returns whether the listener runs this observer.
    #[must_use]
    pub fn selects(&mut self, observer: &ObserverHeader) -> bool {
        let namespace = &observer.namespace;
        let labels = self.opened.loader.namespaces.get(namespace);
        let is_selected = self.listener.selector.matches(&observer.labels)
            && self.listener.reaches(namespace, labels);
        self.seen = true;
        self.selected |= is_selected;
        is_selected && !observer.suspended
    }

    /// Returns the listener, or everything that is wrong with the observers that were read.
    pub fn finish(mut self) -> Result<ListenerConfig, Diagnostics> {
        let loader = &mut self.opened.loader;
        // The operator selected them, so this is a mistake of one of both, and hardly meant.
        if let Some(place) = self.listener.empty_selection
            && loader.diagnostics.is_empty()
            && self.seen
            && !self.selected
        {
            loader.diagnostics.push(Diagnostic {
                message: "selects none of the observers; compare their labels".to_owned(),
                ..place
            });
        }
        if loader.diagnostics.is_empty() {
            Ok(self.listener.config)
        } else {
            Err(self.opened.loader.into_diagnostics(&self.opened.rest))
        }
    }

    fn split(&self, one: ParsedObserver) -> (ObserverHeader, ObserverConfig) {
        let header = ObserverHeader {
            namespace: one.meta.namespace,
            name: one.meta.name,
            labels: one.meta.labels,
            suspended: one.suspended,
            secrets: self.digest(&one.needs),
            needs: one.needs,
        };
        (header, one.config)
    }

    /// Returns the digest of the values of these secrets.
    fn digest(&self, needs: &BTreeSet<Reference>) -> [u8; 32] {
        let mut digest = Sha256::new();
        for need in needs {
            let found = self
                .opened
                .secrets
                .find(&need.namespace, &need.name, &need.key);
            let value = match &found {
                SecretLookup::Value(value) => Some(value.reveal()),
                _ => None,
            };
            digest.update([u8::from(value.is_some())]);
            digest.update(Sha256::digest(value.unwrap_or_default()));
        }
        digest.finalize().into()
    }
}

fn file(text: &str) -> SourceFile {
    SourceFile {
        path: BUNDLE_NAME.into(),
        text: text.into(),
    }
}
