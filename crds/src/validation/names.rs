//! Names of things in a cluster.

/// Longest label of a domain name, and so of the name of most resources.
const MAX_LABEL: usize = 63;

/// Longest domain name, name of a Secret, and key of a Secret.
const MAX_DOMAIN: usize = 253;

/// Whether a name is a label of a domain name, as the names of most resources are.
#[must_use]
pub fn is_label(name: &str) -> bool {
    name.len() <= MAX_LABEL && has_form_of_label(name)
}

fn has_form_of_label(name: &str) -> bool {
    let inner = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-';
    !name.is_empty() && name.bytes().all(inner) && !name.starts_with('-') && !name.ends_with('-')
}

/// Whether a name is one of a Secret: labels joined by dots, of any length.
pub(crate) fn is_secret_name(name: &str) -> bool {
    name.len() <= MAX_DOMAIN && name.split('.').all(has_form_of_label)
}

/// Whether a name is a domain name: labels joined by dots.
pub(crate) fn is_domain(name: &str) -> bool {
    name.len() <= MAX_DOMAIN && name.split('.').all(is_label)
}

/// Whether a name may be a key of a Secret.
pub(crate) fn is_secret_key(key: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    !key.is_empty()
        && key.len() <= MAX_DOMAIN
        && key.chars().all(plain)
        && key != "."
        && !key.starts_with("..")
}

/// Returns whether a name can stand in templates and conditions as it is.
pub(crate) fn is_identifier(name: &str) -> bool {
    let inner = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'_';
    name.len() <= MAX_LABEL
        && name.starts_with(|c: char| c.is_ascii_lowercase())
        && name.bytes().all(inner)
}

/// Message for a name that is not an identifier.
pub(crate) const IDENTIFIER_RULE: &str = "is not a proper name of a lookup; use 1 to 63 lower case \
                                          letters, digits and `_`, beginning with a letter";

/// Message for a name that is not a label.
pub(crate) const LABEL_RULE: &str = "is not a proper name; use 1 to 63 lower case letters, digits \
                                     and `-`, with a letter or digit at both ends";

/// Message for a name that cannot be that of a Secret.
pub(crate) const SECRET_NAME_RULE: &str = "is not a proper name of a Secret; use lower case \
                                           letters, digits, `-` and `.`, with a letter or digit \
                                           at both ends";
