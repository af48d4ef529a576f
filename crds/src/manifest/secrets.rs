//! Secrets by reference: from `Secret` documents first, then from what the caller has.

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value};

use crate::config::Redacted;
use crate::manifest::diagnostics::{Diagnostic, field};
use crate::manifest::document::Document;

/// Gives the value of a Secret, by its name and the key.
pub(crate) type SecretStore<'a> = dyn Fn(&str, &str) -> Option<Redacted> + 'a;

/// Every secret that a reference may name.
pub(crate) struct Secrets<'a> {
    /// Keys of the documents by namespace and name.
    documents: BTreeMap<(String, String), BTreeMap<String, SecretValue>>,
    store: &'a SecretStore<'a>,
}

/// A value in a document.
enum SecretValue {
    Text(Redacted),
    /// Fine for others to use.
    NotText,
    /// What is wrong with it has been reported.
    Invalid,
}

/// What a reference leads to.
pub(crate) enum SecretLookup {
    Value(Redacted),
    /// It is there, and what is wrong with it has been reported.
    Invalid,
    /// It is there, but no text.
    NotText,
    SecretNotFound,
    KeyNotFound,
}

impl<'a> Secrets<'a> {
    pub(crate) fn new(store: &'a SecretStore<'a>) -> Self {
        Self {
            documents: BTreeMap::new(),
            store,
        }
    }

    /// Takes in a document of kind `Secret` that fits its schema.
    pub(crate) fn insert(
        &mut self,
        namespace: &str,
        name: &str,
        document: &Document,
        diagnostics: &mut Vec<Diagnostic>,
    ) {
        let keys = self
            .documents
            .entry((namespace.to_owned(), name.to_owned()))
            .or_default();
        for (key, value) in fields(document, "data") {
            let value = decode(value);
            if matches!(value, SecretValue::Invalid) {
                let at = field("/data", key);
                let message = "is not base64; plain text goes under `stringData`";
                diagnostics.push(document.diagnostic(&at, message));
            }
            keys.insert(key.clone(), value);
        }
        // As in the cluster, plain text wins over base64.
        for (key, value) in fields(document, "stringData") {
            let value = value.as_str().map(Redacted::new);
            keys.insert(
                key.clone(),
                value.map_or(SecretValue::Invalid, SecretValue::Text),
            );
        }
        for pointer in &document.placeholders {
            if let Some((_, key)) = pointer.rsplit_once('/') {
                keys.entry(key.replace("~1", "/").replace("~0", "~"))
                    .or_insert(SecretValue::Invalid);
            }
        }
    }

    /// Follows a reference whose name and key are known to be proper ones.
    pub(crate) fn find(&self, namespace: &str, name: &str, key: &str) -> SecretLookup {
        let document = self.documents.get(&(namespace.to_owned(), name.to_owned()));
        match document.and_then(|keys| keys.get(key)) {
            Some(SecretValue::Text(value)) => return SecretLookup::Value(trimmed(value)),
            Some(SecretValue::NotText) => return SecretLookup::NotText,
            Some(SecretValue::Invalid) => return SecretLookup::Invalid,
            None => {}
        }
        match ((self.store)(name, key), document) {
            (Some(value), _) => SecretLookup::Value(trimmed(&value)),
            (None, Some(_)) => SecretLookup::KeyNotFound,
            (None, None) => SecretLookup::SecretNotFound,
        }
    }
}

fn fields<'a>(
    document: &'a Document,
    field: &str,
) -> impl Iterator<Item = (&'a String, &'a Value)> {
    let map: Option<&Map<_, _>> = document.value.get(field).and_then(Value::as_object);
    map.into_iter().flatten()
}

fn decode(value: &Value) -> SecretValue {
    // Editors wrap long base64, and so does the tool of that name.
    let text: String = value
        .as_str()
        .map_or_else(String::new, |text| text.split_ascii_whitespace().collect());
    match STANDARD.decode(text).map(String::from_utf8) {
        Ok(Ok(text)) => SecretValue::Text(Redacted::new(text)),
        Ok(Err(_)) => SecretValue::NotText,
        Err(_) => SecretValue::Invalid,
    }
}

/// Files and block scalars end with a line break that nobody means.
fn trimmed(value: &Redacted) -> Redacted {
    let text = value.reveal();
    let text = text.strip_suffix('\n').unwrap_or(text);
    Redacted::new(text.strip_suffix('\r').unwrap_or(text))
}
