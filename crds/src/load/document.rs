//! A document of a file: its content, and where each of its fields stands.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::report::{Problem, dotted, shown};

/// One document.
#[derive(Debug)]
pub(super) struct Document {
    /// The file it came from.
    pub(super) file: String,
    /// Its content.
    pub(super) value: Value,
    /// Line of each field, by JSON pointer; the document itself has the empty pointer.
    pub(super) lines: BTreeMap<String, usize>,
    /// Fields that hold a stand-in, because a problem with them was reported.
    pub(super) mended: BTreeSet<String>,
    /// Mappings in which an unknown field stood, so that one they lack may only be misnamed.
    pub(super) misnamed: BTreeSet<String>,
    /// Kind and name, as problems show it.
    pub(super) title: String,
}

impl Document {
    /// Line of a field, or of what is around it.
    pub(super) fn line(&self, pointer: &str) -> Option<usize> {
        let mut pointer = pointer;
        loop {
            if let Some(line) = self.lines.get(pointer) {
                return Some(*line);
            }
            pointer = &pointer[..pointer.rfind('/')?];
        }
    }

    /// Whether a field, or what is around it, holds a stand-in.
    pub(super) fn is_mended(&self, pointer: &str) -> bool {
        self.mended.iter().any(|mended| covers(mended, pointer))
    }

    /// Whether a field, or something within it, holds a stand-in.
    pub(super) fn is_mended_within(&self, pointer: &str) -> bool {
        self.mended.iter().any(|mended| covers(pointer, mended))
    }

    /// A problem with a field.
    pub(super) fn problem(&self, pointer: &str, message: impl Into<String>) -> Problem {
        let path = match (self.title.as_str(), dotted(pointer)) {
            ("", path) => path,
            (title, path) if path.is_empty() => title.to_owned(),
            (title, path) => format!("{title}: {path}"),
        };
        Problem {
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
pub(super) fn title(value: &Value) -> String {
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
