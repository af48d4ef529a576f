//! Context of validation: the document, its secrets, and the diagnostics.
//!
//! A field that holds a placeholder is not complained about again.

use std::time::Duration;

use crate::config::Redacted;
use crate::duration::HumanDuration;
use crate::manifest::diagnostics::{Diagnostic, field};
use crate::manifest::document::Document;
use crate::manifest::secrets::{SecretLookup, Secrets};
use crate::v1alpha1::{SecretKeyRef, ValueSource};
use crate::validation::names::{SECRET_NAME_RULE, is_secret_key, is_secret_name};

/// Context in which one document is validated.
pub(crate) struct ValidationContext<'a> {
    pub(crate) document: &'a Document,
    pub(crate) secrets: &'a Secrets<'a>,
    pub(crate) namespace: &'a str,
    pub(crate) diagnostics: &'a mut Vec<Diagnostic>,
}

impl ValidationContext<'_> {
    /// Reports a field, unless it or one around it holds a placeholder.
    pub(crate) fn error(&mut self, at: &str, message: impl Into<String>) {
        if !self.document.is_placeholder(at) {
            self.diagnostics.push(self.document.diagnostic(at, message));
        }
    }

    /// Reports that a mapping has none of `parts`, unless one was given under a wrong name or with
    /// a wrong value.
    pub(crate) fn missing_field(&mut self, at: &str, parts: &[&str], message: &str) {
        let document = self.document;
        let was_there = parts
            .iter()
            .any(|part| document.is_placeholder(&field(at, part)));
        if !was_there && !document.misnamed.contains(at) {
            self.error(at, message);
        }
    }

    /// Reports a duration out of its range, and returns it.
    pub(crate) fn check_range(
        &mut self,
        at: &str,
        span: HumanDuration,
        least: HumanDuration,
        most: HumanDuration,
    ) -> Duration {
        if !(least..=most).contains(&span) {
            self.error(at, format!("must be {least} to {most}"));
        }
        span.duration()
    }

    /// Returns a value and the field that gave it, or reports why there is none.
    pub(crate) fn resolve(&mut self, at: &str, source: &ValueSource) -> Option<(String, Redacted)> {
        match (&source.value, &source.secret_key_ref) {
            (Some(value), None) => Some((field(at, "value"), Redacted::new(value))),
            (None, Some(reference)) => {
                let at = field(at, "secretKeyRef");
                let value = self.resolve_secret(&at, reference)?;
                Some((at, value))
            }
            (Some(_), Some(_)) => {
                self.error(at, "has both `value` and `secretKeyRef`; keep one of them");
                None
            }
            (None, None) => {
                self.missing_field(
                    at,
                    &["value", "secretKeyRef"],
                    "needs `value: TEXT` or `secretKeyRef: {name: SECRET, key: KEY}`",
                );
                None
            }
        }
    }

    fn resolve_secret(&mut self, at: &str, reference: &SecretKeyRef) -> Option<Redacted> {
        let SecretKeyRef { name, key } = reference;
        // Both may end up in a path of a file, so nothing but proper names goes further.
        let proper = (is_secret_name(name), is_secret_key(key));
        if !proper.0 {
            self.error(&field(at, "name"), SECRET_NAME_RULE);
        }
        if !proper.1 {
            self.error(
                &field(at, "key"),
                "is not a key of a Secret; use letters, digits, `-`, `_` and `.`, not starting with `..`",
            );
        }
        if proper != (true, true) {
            return None;
        }
        let missing = match self.secrets.find(self.namespace, name, key) {
            SecretLookup::Value(value) => return Some(value),
            SecretLookup::Invalid => return None,
            SecretLookup::NotText => {
                self.error(
                    at,
                    format!("key `{key}` of Secret `{name}` holds bytes that are not UTF-8 text"),
                );
                return None;
            }
            SecretLookup::KeyNotFound => {
                format!("Secret `{name}` has no key `{key}`; add it to the document")
            }
            SecretLookup::SecretNotFound => {
                let namespace = self.namespace;
                format!(
                    "there is no Secret `{name}` in namespace `{namespace}`; add a Secret \
                     document with key `{key}` to the file"
                )
            }
        };
        self.error(
            at,
            format!(
                "{missing}, or run with --secrets-dir DIR and put the value in DIR/{name}/{key}"
            ),
        );
        None
    }
}
