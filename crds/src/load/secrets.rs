//! Secrets by reference: from `Secret` documents first, then from what the caller has.

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value};

use super::document::Document;
use super::report::{Problem, field};
use crate::config::Redacted;

/// Gives the value of a Secret, by its name and the key.
pub(super) type Store<'a> = dyn Fn(&str, &str) -> Option<Redacted> + 'a;

/// Every secret that a reference may name.
pub(super) struct Secrets<'a> {
    /// Keys of the documents by namespace and name.
    documents: BTreeMap<(String, String), BTreeMap<String, Entry>>,
    store: &'a Store<'a>,
}

/// A value in a document.
enum Entry {
    Text(Redacted),
    /// Fine for others to use.
    Bytes,
    /// What is wrong with it has been reported.
    Unreadable,
}

/// What a reference leads to.
pub(super) enum Found {
    Value(Redacted),
    /// It is there, and what is wrong with it has been reported.
    Unreadable,
    /// It is there, but no text.
    Bytes,
    NoSecret,
    NoKey,
}

impl<'a> Secrets<'a> {
    pub(super) fn new(store: &'a Store<'a>) -> Self {
        Self {
            documents: BTreeMap::new(),
            store,
        }
    }

    /// Takes in a document of kind `Secret` that fits its schema.
    pub(super) fn insert(
        &mut self,
        namespace: &str,
        name: &str,
        document: &Document,
        problems: &mut Vec<Problem>,
    ) {
        let keys = self
            .documents
            .entry((namespace.to_owned(), name.to_owned()))
            .or_default();
        for (key, value) in entries(document, "data") {
            let value = decode(value);
            if matches!(value, Entry::Unreadable) {
                let at = field("/data", key);
                let message = "is not base64; plain text goes under `stringData`";
                problems.push(document.problem(&at, message));
            }
            keys.insert(key.clone(), value);
        }
        // As in the cluster, plain text wins over base64.
        for (key, value) in entries(document, "stringData") {
            let value = value.as_str().map(Redacted::new);
            keys.insert(key.clone(), value.map_or(Entry::Unreadable, Entry::Text));
        }
        for pointer in &document.mended {
            if let Some((_, key)) = pointer.rsplit_once('/') {
                keys.entry(key.replace("~1", "/").replace("~0", "~"))
                    .or_insert(Entry::Unreadable);
            }
        }
    }

    /// Follows a reference whose name and key are known to be proper ones.
    pub(super) fn find(&self, namespace: &str, name: &str, key: &str) -> Found {
        let document = self.documents.get(&(namespace.to_owned(), name.to_owned()));
        match document.and_then(|keys| keys.get(key)) {
            Some(Entry::Text(value)) => return Found::Value(trimmed(value)),
            Some(Entry::Bytes) => return Found::Bytes,
            Some(Entry::Unreadable) => return Found::Unreadable,
            None => {}
        }
        match ((self.store)(name, key), document) {
            (Some(value), _) => Found::Value(trimmed(&value)),
            (None, Some(_)) => Found::NoKey,
            (None, None) => Found::NoSecret,
        }
    }
}

fn entries<'a>(
    document: &'a Document,
    field: &str,
) -> impl Iterator<Item = (&'a String, &'a Value)> {
    let map: Option<&Map<_, _>> = document.value.get(field).and_then(Value::as_object);
    map.into_iter().flatten()
}

fn decode(value: &Value) -> Entry {
    // Editors wrap long base64, and so does the tool of that name.
    let text: String = value
        .as_str()
        .map_or_else(String::new, |text| text.split_ascii_whitespace().collect());
    match STANDARD.decode(text).map(String::from_utf8) {
        Ok(Ok(text)) => Entry::Text(Redacted::new(text)),
        Ok(Err(_)) => Entry::Bytes,
        Err(_) => Entry::Unreadable,
    }
}

/// Files and block scalars end with a line break that nobody means.
fn trimmed(value: &Redacted) -> Redacted {
    let text = value.reveal();
    let text = text.strip_suffix('\n').unwrap_or(text);
    Redacted::new(text.strip_suffix('\r').unwrap_or(text))
}
