//! A bundle, which the operator compiled for the pods of a listener with the secrets that it refers to. It may be
//! without observers, and longer than a file, so each document is read by itself.

use std::collections::{BTreeMap, BTreeSet};

use sha2::{Digest, Sha256};

use super::{Loaded, Loader, ParsedListener, ParsedObserver};
use crate::bundle::{BUNDLE_NAME, DOCUMENT_END, Reference};
use crate::config::{ListenerConfig, ObserverConfig};
use crate::manifest::secrets::{SecretLookup, Secrets};
use crate::manifest::{Diagnostic, Diagnostics, SourceFile, SourceMap};
use crate::v1alpha1::{GROUP, VERSION};

/// Loads a bundle with all of its observers.
pub fn load_bundle(text: &str) -> Result<Loaded, Diagnostics> {
    let mut reader = BundleReader::open(text);
    for document in reader.documents() {
        reader.parse(document);
    }
    let bundle = reader.loader.select_listener(None);
    reader.loader.finish(&reader.rest, bundle)
}

/// A bundle whose observers are read one by one: what a document becomes takes many times its room, and one that was
/// read before need not be read again.
pub struct BundleReader<'t> {
    loader: Loader,
    /// All but the documents of observers.
    rest: Vec<SourceFile>,
    secrets: Secrets<'static>,
    documents: Vec<&'t str>,
}

/// What is known of the document of an observer without reading it again.
#[derive(Clone, Debug)]
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

impl<'t> BundleReader<'t> {
    /// Reads all but the observers that have a line of their own, as the operator writes them.
    #[must_use]
    pub fn open(text: &'t str) -> Self {
        let begin = format!("{{\"apiVersion\":\"{GROUP}/{VERSION}\",\"kind\":\"Observer\",");
        let (documents, rest): (Vec<&str>, Vec<&str>) =
            text.split(DOCUMENT_END).partition(|document| {
                document.starts_with(&begin) && !document.trim_end().contains('\n')
            });
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

    /// Returns the listener; nothing if it is invalid or not the only one, of which [`Self::finish`] tells.
    #[must_use]
    pub fn listener(&self) -> Option<&ListenerConfig> {
        self.chosen().map(|listener| &listener.config)
    }

    /// Returns the documents of observers that are still to be read.
    #[must_use]
    pub fn documents(&self) -> Vec<&'t str> {
        self.documents.clone()
    }

    /// Returns the observers that have no line of their own and have been read already.
    pub fn others(&mut self) -> Vec<(ObserverHeader, ObserverConfig)> {
        let others = std::mem::take(&mut self.loader.observers);
        let others = others.into_iter();
        others.map(|one| self.split(one)).collect()
    }

    /// Reads the document of an observer. If it is invalid, [`Self::finish`] says why.
    pub fn read(&mut self, document: &str) -> Option<(ObserverHeader, ObserverConfig)> {
        let before = self.loader.diagnostics.len();
        self.parse(document);
        self.loader.source_map = SourceMap::default();
        let one = self.loader.observers.pop()?;
        (self.loader.diagnostics.len() == before).then(|| self.split(one))
    }

    /// Takes an observer that was read from the same document before. Returns whether it is as it was: its secrets
    /// have the values that they had.
    pub fn reuse(&mut self, known: &ObserverHeader) -> bool {
        if known.secrets != self.digest(&known.needs) {
            return false;
        }
        let identity = format!("{}/{}", known.namespace, known.name);
        if let Some(first) = self
            .loader
            .see("Observer", identity, BUNDLE_NAME.to_owned())
        {
            self.loader.diagnostics.push(Diagnostic {
                file: BUNDLE_NAME.to_owned(),
                line: None,
                path: format!("Observer {}/{}", known.namespace, known.name),
                message: first,
            });
        }
        true
    }

    /// Returns whether the listener runs this observer.
    #[must_use]
    pub fn selects(&self, observer: &ObserverHeader) -> bool {
        let namespace = &observer.namespace;
        self.chosen().is_some_and(|listener| {
            !observer.suspended
                && listener.selector.matches(&observer.labels)
                && listener.reaches(namespace, self.loader.namespaces.get(namespace))
        })
    }

    /// Returns the listener, or everything that is wrong with the bundle as far as it was read.
    pub fn finish(mut self) -> Result<ListenerConfig, Diagnostics> {
        self.loader.observers.clear();
        let bundle = self.loader.select_listener(None);
        let loaded = self.loader.finish(&self.rest, bundle)?;
        Ok(loaded.bundle.listener)
    }

    fn parse(&mut self, document: &str) {
        let documents = self.loader.parse(&[file(document)]);
        self.loader.validate_all(&documents, &self.secrets);
    }

    fn chosen(&self) -> Option<&ParsedListener> {
        match self.loader.listeners.as_slice() {
            [listener] => Some(listener),
            _ => None,
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
            let found = self.secrets.find(&need.namespace, &need.name, &need.key);
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
