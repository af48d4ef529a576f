//! What every check of a resource needs: where it stands, its secrets, and a place for problems.
//!
//! A field that holds a stand-in is not complained about again.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::Value;

use super::document::Document;
use super::report::{Problem, field};
use super::secrets::{Found, Secrets};
use crate::config::Redacted;
use crate::duration::Span;
use crate::resources::{SecretKeyRef, ValueSource};

/// Longest name of a label of a domain, and so of most resources.
const MAX_LABEL: usize = 63;

/// Longest domain name, name of a Secret, and key of a Secret.
pub(super) const MAX_DOMAIN: usize = 253;

/// One document under check.
pub(super) struct Checks<'a> {
    pub(super) document: &'a Document,
    pub(super) secrets: &'a Secrets<'a>,
    pub(super) namespace: &'a str,
    pub(super) problems: &'a mut Vec<Problem>,
}

impl Checks<'_> {
    /// Reports a field, unless it or what is around it holds a stand-in.
    pub(super) fn wrong(&mut self, at: &str, message: impl Into<String>) {
        if !self.document.is_mended(at) {
            self.problems.push(self.document.problem(at, message));
        }
    }

    /// Reports that a mapping has none of `parts`, unless one was there under a wrong name or
    /// with a wrong value.
    pub(super) fn lacks(&mut self, at: &str, parts: &[&str], message: &str) {
        let document = self.document;
        let was_there = parts
            .iter()
            .any(|part| document.is_mended(&field(at, part)));
        if !was_there && !document.misnamed.contains(at) {
            self.wrong(at, message);
        }
    }

    /// A duration within its bounds.
    pub(super) fn bounded(&mut self, at: &str, span: Span, least: Span, most: Span) -> Duration {
        if !(least..=most).contains(&span) {
            self.wrong(at, format!("must be {least} to {most}"));
        }
        span.duration()
    }

    /// The value of a source, and where it was given; nothing if that was reported.
    pub(super) fn resolve(&mut self, at: &str, source: &ValueSource) -> Option<(String, Redacted)> {
        match (&source.value, &source.secret_key_ref) {
            (Some(value), None) => Some((field(at, "value"), Redacted::new(value))),
            (None, Some(reference)) => {
                let at = field(at, "secretKeyRef");
                let value = self.follow(&at, reference)?;
                Some((at, value))
            }
            (Some(_), Some(_)) => {
                self.wrong(at, "has both `value` and `secretKeyRef`; keep one of them");
                None
            }
            (None, None) => {
                self.lacks(
                    at,
                    &["value", "secretKeyRef"],
                    "needs `value: TEXT` or `secretKeyRef: {name: SECRET, key: KEY}`",
                );
                None
            }
        }
    }

    fn follow(&mut self, at: &str, reference: &SecretKeyRef) -> Option<Redacted> {
        let SecretKeyRef { name, key } = reference;
        // Both may end up in a path of a file, so nothing but proper names goes further.
        let proper = (is_domain(name), is_secret_key(key));
        if !proper.0 {
            self.wrong(&field(at, "name"), SECRET_NAME_RULE);
        }
        if !proper.1 {
            self.wrong(
                &field(at, "key"),
                "is not a key of a Secret; use letters, digits, `-`, `_` and `.`, not starting with `..`",
            );
        }
        if proper != (true, true) {
            return None;
        }
        let missing = match self.secrets.find(self.namespace, name, key) {
            Found::Value(value) => return Some(value),
            Found::Unreadable => return None,
            Found::Bytes => {
                self.wrong(
                    at,
                    format!("key `{key}` of Secret `{name}` holds bytes that are not UTF-8 text"),
                );
                return None;
            }
            Found::NoKey => format!("Secret `{name}` has no key `{key}`; add it to the document"),
            Found::NoSecret => {
                let namespace = self.namespace;
                format!(
                    "there is no Secret `{name}` in namespace `{namespace}`; add a Secret \
                     document with key `{key}` to the file"
                )
            }
        };
        self.wrong(
            at,
            format!(
                "{missing}, or run with --secrets-dir DIR and put the value in DIR/{name}/{key}"
            ),
        );
        None
    }
}

/// The metadata that matters here.
#[derive(Clone, Debug)]
pub(super) struct Meta {
    pub(super) namespace: String,
    pub(super) name: String,
    pub(super) labels: BTreeMap<String, String>,
}

impl Meta {
    /// Of a document that fits its schema.
    pub(super) fn of(document: &Document) -> Self {
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
    pub(super) fn identity(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }
}

/// A name as Kubernetes gives it to most things: a label of a domain.
pub(super) fn is_label(name: &str) -> bool {
    let inner = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-';
    !name.is_empty()
        && name.len() <= MAX_LABEL
        && name.bytes().all(inner)
        && !name.starts_with('-')
        && !name.ends_with('-')
}

/// Labels joined by dots.
pub(super) fn is_domain(name: &str) -> bool {
    name.len() <= MAX_DOMAIN && name.split('.').all(is_label)
}

fn is_secret_key(key: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    !key.is_empty()
        && key.len() <= MAX_DOMAIN
        && key.chars().all(plain)
        && key != "."
        && !key.starts_with("..")
}

/// What a name must be like.
pub(super) const LABEL_RULE: &str = "is not a proper name; use 1 to 63 lower case letters, digits \
                                     and `-`, with a letter or digit at both ends";

/// What the name of a Secret must be like.
pub(super) const SECRET_NAME_RULE: &str = "is not a proper name of a Secret; use lower case \
                                           letters, digits, `-` and `.`, with a letter or digit \
                                           at both ends";
