//! Why the configuration of an action cannot be compiled.

use super::template::TemplateError;

/// Why an action's configuration cannot be compiled. Paths are relative to the action, as in
/// `webhook.body`; no text holds a secret.
#[derive(Debug, thiserror::Error)]
pub enum CompileError {
    /// A template is wrong.
    #[error("{field}, {error}")]
    Template {
        /// Path of its field.
        field: String,
        /// What is wrong with it.
        #[source]
        error: TemplateError,
    },
    /// A field holds what cannot be used.
    #[error("{field} {what}")]
    Field {
        /// The field.
        field: String,
        /// What is wrong with it, and the remedy.
        what: String,
    },
}

impl CompileError {
    /// Creates the error of a field; `what` goes on after its name.
    pub(crate) fn field(field: impl Into<String>, what: impl Into<String>) -> Self {
        Self::Field {
            field: field.into(),
            what: what.into(),
        }
    }

    /// Returns what is wrong, without the path.
    pub(crate) fn detail(&self) -> String {
        match self {
            Self::Template { error, .. } => error.to_string(),
            Self::Field { what, .. } => what.clone(),
        }
    }

    /// Returns the path of the field at fault, as in `webhook.body`.
    #[must_use]
    pub fn field_path(&self) -> String {
        match self {
            Self::Template { field, .. } | Self::Field { field, .. } => field.clone(),
        }
    }
}
