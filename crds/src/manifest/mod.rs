//! Files of resources: from YAML text to documents that fit the schemas of the cluster, each field
//! with its line.

pub(crate) mod diagnostics;
pub(crate) mod document;
mod placeholder;
mod scalar;
pub(crate) mod schema;
pub(crate) mod secrets;
pub(crate) mod yaml;

pub use diagnostics::{Diagnostic, Diagnostics, SourceMap, closest};

/// A file that the caller has read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceFile {
    /// Its name, as diagnostics show it.
    pub path: String,
    /// Its text: any number of YAML documents.
    pub text: String,
}
