//! What names in a cluster look like.

/// Longest name of a label of a domain, and so of most resources.
const MAX_LABEL: usize = 63;

/// Longest domain name, name of a Secret, and key of a Secret.
const MAX_DOMAIN: usize = 253;

/// A name as Kubernetes gives it to most things: a label of a domain.
pub(crate) fn is_label(name: &str) -> bool {
    let inner = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-';
    !name.is_empty()
        && name.len() <= MAX_LABEL
        && name.bytes().all(inner)
        && !name.starts_with('-')
        && !name.ends_with('-')
}

/// Labels joined by dots.
pub(crate) fn is_domain(name: &str) -> bool {
    name.len() <= MAX_DOMAIN && name.split('.').all(is_label)
}

/// Whether this may be a key of a Secret.
pub(crate) fn is_secret_key(key: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    !key.is_empty()
        && key.len() <= MAX_DOMAIN
        && key.chars().all(plain)
        && key != "."
        && !key.starts_with("..")
}

/// What a name must be like.
pub(crate) const LABEL_RULE: &str = "is not a proper name; use 1 to 63 lower case letters, digits \
                                     and `-`, with a letter or digit at both ends";

/// What the name of a Secret must be like.
pub(crate) const SECRET_NAME_RULE: &str = "is not a proper name of a Secret; use lower case \
                                           letters, digits, `-` and `.`, with a letter or digit \
                                           at both ends";
