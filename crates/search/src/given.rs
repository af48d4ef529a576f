//! Documents that are given to be written: what both backends do before they differ.

use std::collections::{BTreeMap, BTreeSet};

use crate::document::Document;
use crate::index::{Rejected, WriteReport};

/// Maximum length of a stored document in bytes.
const MAX_DOCUMENT_BYTES: usize = 16 * 1024 * 1024;

/// Maximum length of an id and of a listener's identity in bytes.
const MAX_NAME_BYTES: usize = 1024;

/// What tells documents apart: the listener and the id.
fn name(document: &Document) -> (&str, &str) {
    (&document.listener, &document.id)
}

/// Documents that can never be stored.
#[derive(Default)]
pub(crate) struct Rejections {
    names: BTreeSet<(String, String)>,
    rejected: Vec<Rejected>,
}

impl Rejections {
    /// Adds a document, with the reason.
    pub(crate) fn add(&mut self, document: &Document, reason: String) {
        let (listener, id) = (document.listener.clone(), document.id.clone());
        self.names.insert((listener, id.clone()));
        self.rejected.push(Rejected { id, reason });
    }

    /// Returns the report of the documents that were given.
    pub(crate) fn report(self, given: &[Document]) -> WriteReport {
        let names: BTreeSet<(&str, &str)> = self
            .names
            .iter()
            .map(|(listener, id)| (listener.as_str(), id.as_str()))
            .collect();
        let written = given.iter().filter(|one| !names.contains(&name(one)));
        WriteReport {
            written: written.count(),
            rejected: self.rejected,
        }
    }
}

/// Returns each document once, sorted for merging, by listener and id. Those with too long names, and those
/// that `check` refuses, are rejected.
pub(crate) fn unique(
    given: &[Document],
    rejections: &mut Rejections,
    check: impl Fn(&Document) -> Result<(), String>,
) -> Vec<Document> {
    let mut unique: BTreeMap<(&str, &str), Document> = BTreeMap::new();
    for document in given {
        if let Err(reason) = check_names(document).and_then(|()| check(document)) {
            rejections.add(document, reason);
            continue;
        }
        let mut sorted = document.clone();
        sorted.sort();
        if let Some(first) = unique.get_mut(&name(document)) {
            first.merge(&sorted);
        } else {
            unique.insert(name(document), sorted);
        }
    }
    unique.into_values().collect()
}

fn check_names(document: &Document) -> Result<(), String> {
    for (name, value) in [("id", &document.id), ("listener", &document.listener)] {
        if value.len() > MAX_NAME_BYTES {
            return Err(format!("its {name} has more than {MAX_NAME_BYTES} bytes"));
        }
    }
    Ok(())
}

/// Writes a document as JSON, unless it is too long.
pub(crate) fn body(document: &Document) -> Result<String, String> {
    let body =
        serde_json::to_string(document).map_err(|_| "it cannot be written as JSON".to_owned())?;
    if body.len() > MAX_DOCUMENT_BYTES {
        return Err(format!("it has more than {MAX_DOCUMENT_BYTES} bytes"));
    }
    Ok(body)
}
