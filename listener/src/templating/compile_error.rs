//! Why the configuration of an action cannot be compiled.

use super::template::Flaw;

/// Why an action's configuration cannot be compiled. Places are relative to the action, as in
/// `webhook.body`; no text holds a secret.
#[derive(Debug, thiserror::Error)]
pub enum CompileError {
    /// A template is wrong.
    #[error("{place}, {flaw}")]
    Template {
        /// Where the template stands.
        place: String,
        /// What is wrong with it.
        #[source]
        flaw: Flaw,
    },
    /// A field holds what cannot be used.
    #[error("{place} {what}")]
    Field {
        /// The field.
        place: String,
        /// What is wrong with it, and the remedy.
        what: String,
    },
}

impl CompileError {
    /// The value of the field at `place` cannot be used; `what` goes on after its name.
    pub(crate) fn field(place: impl Into<String>, what: impl Into<String>) -> Self {
        Self::Field {
            place: place.into(),
            what: what.into(),
        }
    }

    /// The field of the action that is at fault, as in `webhook.body`.
    #[must_use]
    pub fn place(&self) -> String {
        match self {
            Self::Template { place, .. } | Self::Field { place, .. } => place.clone(),
        }
    }
}
