//! A document of a file: its content, and where each of its fields stands.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use crate::manifest::diagnostics::{Diagnostic, dotted, shown};

/// One document.
#[derive(Debug)]
pub(crate) struct Document {
    /// The file it came from.
    pub(crate) file: String,
    /// Its content.
    pub(crate) value: Value,
    /// Line of each field, by JSON pointer; the document itself has the empty pointer.
    pub(crate) lines: BTreeMap<String, usize>,
    /// Fields that hold a placeholder, because a problem with them was reported.
    pub(crate) placeholders: BTreeSet<String>,
    /// Mappings in which an unknown field stood, so that one they lack may only be misnamed.
    pub(crate) misnamed: BTreeSet<String>,
    /// Kind and name, as problems show it.
    pub(crate) title: String,
}

impl Document {
    /// Line of a field, or of what is around it.
    pub(crate) fn line(&self, pointer: &str) -> Option<usize> {
        let mut pointer = pointer;
        loop {
            if let Some(line) = self.lines.get(pointer) {
                return Some(*line);
            }
            pointer = &pointer[..pointer.rfind('/')?];
        }
    }

    /// Whether a field, or what is around it, holds a placeholder.
    pub(crate) fn is_placeholder(&self, pointer: &str) -> bool {
        self.placeholders.iter().any(|at| covers(at, pointer))
    }

    /// Whether a field, or something within it, holds a placeholder.
    pub(crate) fn is_placeholder_within(&self, pointer: &str) -> bool {
        self.placeholders.iter().any(|at| covers(pointer, at))
    }

    /// A problem with a field.
    pub(crate) fn diagnostic(&self, pointer: &str, message: impl Into<String>) -> Diagnostic {
        let path = match (self.title.as_str(), dotted(pointer)) {
            ("", path) => path,
            (title, path) if path.is_empty() => title.to_owned(),
            (title, path) => format!("{title}: {path}"),
        };
        Diagnostic {
            file: self.file.clone(),
            line: self.line(pointer),
            path,
            message: message.into(),
        }
    }
}

fn covers(outer: &str, inner: &str) -> bool {
    inner
        .strip_prefix(outer)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// Kind and name of a resource, as far as they can be made out.
pub(crate) fn title(value: &Value) -> String {
    let text = |pointer: &str| value.pointer(pointer).and_then(Value::as_str);
    let Some(kind) = text("/kind") else {
        return String::new();
    };
    let Some(name) = text("/metadata/name") else {
        return shown(kind).into_owned();
    };
    let namespace = text("/metadata/namespace").unwrap_or("default");
    format!("{} {}/{}", shown(kind), shown(namespace), shown(name))
}

/// The metadata that matters here.
#[derive(Clone, Debug)]
pub(crate) struct Metadata {
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) labels: BTreeMap<String, String>,
}

impl Metadata {
    /// Of a document that fits its schema.
    pub(crate) fn of(document: &Document) -> Self {
        let text = |pointer: &str| document.value.pointer(pointer).and_then(Value::as_str);
        let labels = document.value.pointer("/metadata/labels");
        Self {
            namespace: text("/metadata/namespace").unwrap_or("default").to_owned(),
            name: text("/metadata/name").unwrap_or_default().to_owned(),
            labels: labels
                .and_then(Value::as_object)
                .into_iter()
                .flatten()
                .filter_map(|(name, value)| Some((name.clone(), value.as_str()?.to_owned())))
                .collect(),
        }
    }

    /// `namespace/name`.
    pub(crate) fn identity(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }
}
