//! Checks of observers, each made once for the same text.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use sha2::{Digest, Sha256};

use super::references::missing;
use super::{Inclusion, Reference, SecretReader, alone, sentences};
use crate::endpoints::{self, Endpoint};
use crate::loader::check_alone;

/// Digests of the observers that the bundle before found valid, with the secrets that they were checked with, so that a
/// change of one is not a check of all. Each has what it connects to.
#[derive(Clone, Debug, Default)]
pub struct CheckedObservers(pub(super) EndpointsByDigest);

pub(super) type EndpointsByDigest = HashMap<[u8; 32], Endpoints>;

/// What one observer connects to.
pub(super) type Endpoints = Arc<[Endpoint]>;

/// Checks an observer, and returns what it connects to, or why it cannot be in the bundle.
pub(super) fn check_observer(
    line: &str,
    needs: &BTreeSet<Reference>,
    secrets: &SecretReader<'_>,
    (before, valid): (&EndpointsByDigest, &mut EndpointsByDigest),
) -> Result<Endpoints, Inclusion> {
    let missing = missing(needs, secrets);
    if !missing.is_empty() {
        return Err(Inclusion::Unresolved(missing));
    }
    let text = alone(line, needs, secrets);
    let digest = Sha256::digest(&text).into();
    let known = before.get(&digest).cloned();
    let endpoints = known.map_or_else(|| check(text), Ok)?;
    valid.insert(digest, Arc::clone(&endpoints));
    Ok(endpoints)
}

fn check(text: String) -> Result<Endpoints, Inclusion> {
    let checked = check_alone(text);
    match &checked.observer {
        Some(config) if checked.diagnostics.is_empty() => {
            let found = endpoints::of_observer(config);
            Ok(if found.is_empty() {
                // The default is one that all share.
                Endpoints::default()
            } else {
                found.into_iter().collect()
            })
        }
        _ => Err(Inclusion::Invalid(sentences(checked.diagnostics))),
    }
}
