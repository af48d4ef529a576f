//! Tokens of the listener: whose a bearer token is.

use std::sync::Arc;

use crds::config::{ApiRole, ApiToken};
use server::limiter::Limiter;
use server::reviews::{TokenDigest, digest};

/// A token of the listener, by its digest.
#[derive(Debug)]
pub(super) struct KnownToken {
    /// What it is found by.
    pub(super) digest: TokenDigest,
    /// Its name in logs.
    pub(super) name: Arc<str>,
    /// What it admits to.
    pub(super) role: ApiRole,
    /// The only tenant that it admits to.
    pub(super) tenant: Option<Arc<str>>,
    /// Its requests.
    pub(super) limiter: Limiter,
}

impl KnownToken {
    pub(super) fn new(token: &ApiToken) -> Self {
        Self {
            digest: digest(token.token.reveal()),
            name: token.name.as_str().into(),
            role: token.role,
            tenant: token.tenant.as_deref().map(Arc::from),
            limiter: Limiter::of_requests(),
        }
    }
}

/// Returns the token of a digest. All are compared, whichever it is.
pub(super) fn find<'a>(tokens: &'a [KnownToken], digest: &TokenDigest) -> Option<&'a KnownToken> {
    tokens.iter().fold(None, |found, one| {
        found.or((one.digest == *digest).then_some(one))
    })
}
