//! Tokens of the listener: whose a bearer token is, and how many requests its bearer may make.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use crds::config::{ApiRole, ApiToken, RateLimit};
use sha2::{Digest as _, Sha256};
use tokio::time::Instant;

use crate::admission::rate_limiter::Gcra;
use crate::sync::lock;

/// Requests of one token: a burst of 100, and 50 a second.
const REQUESTS: RateLimit = RateLimit {
    attempts: 100,
    per: Duration::from_secs(2),
};

/// Digest of a token. Digests are what is compared, so that the time it takes reveals nothing about tokens.
pub(super) type TokenDigest = [u8; 32];

/// Returns the digest of a token.
pub(super) fn digest(token: &str) -> TokenDigest {
    Sha256::digest(token).into()
}

/// Rate limit, shared by all requests that it counts together.
#[derive(Clone, Debug)]
pub(super) struct Limiter(Arc<Mutex<Gcra>>);

impl Limiter {
    /// Creates the limiter of one bearer's requests.
    pub(super) fn of_requests() -> Self {
        Self::new(REQUESTS)
    }

    pub(super) fn new(limit: RateLimit) -> Self {
        Self(Arc::new(Mutex::new(Gcra::new(limit))))
    }

    /// Counts one more, or returns how long it has to wait.
    pub(super) fn admit(&self) -> Result<(), Duration> {
        let now = Instant::now();
        let mut bucket = lock(&self.0);
        if let Some(delay) = bucket.delay(now) {
            return Err(delay);
        }
        bucket.acquire(now);
        Ok(())
    }
}

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

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn bearer_has_a_burst_and_then_an_even_rate() {
        let limiter = Limiter::of_requests();
        assert!((0..100).all(|_| limiter.admit().is_ok()));
        assert_eq!(limiter.admit(), Err(Duration::from_millis(20)));
        tokio::time::advance(Duration::from_secs(1)).await;
        assert!((0..50).all(|_| limiter.admit().is_ok()));
        assert!(limiter.admit().is_err());
    }
}
