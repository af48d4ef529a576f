//! Sessions: a sealed cookie that holds the token of the person who logged in.
//!
//! It comes along where a link leads to the console from elsewhere, and never with a form of another site; those
//! are refused besides ([`crate::security::is_same_origin`]).
//!
//! Every request presents that token to the API, so a session ends with its token, or as soon as its rights do.
//! It also ends at its own time, and when the person logs out: then its row is gone ([`crate::session_store`]),
//! and copies of the cookie are worth nothing. Sealed with AES-256-GCM, the cookie shows nothing and cannot be
//! altered; its name, which is bound to the listener, is authenticated with it.

use aws_lc_rs::aead::{AES_256_GCM, Aad, NONCE_LEN, Nonce, RandomizedNonceKey};
use axum::http::HeaderMap;
use axum::http::header::COOKIE;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::BASE;

/// Maximum number of bytes of a cookie that browsers keep, with its name and attributes.
const MAX_COOKIE_BYTES: usize = 4096;

/// Random bytes that name a session.
pub(crate) type SessionId = [u8; 32];

/// A session.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct Session {
    /// What its row is found by.
    pub(crate) id: SessionId,
    /// The token that was presented.
    pub(crate) token: String,
    /// When it ends.
    pub(crate) expires_at: DateTime<Utc>,
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Session")
    }
}

/// The session does not fit into a cookie.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SealError {
    /// Its token is too long.
    #[error("the token is too long for a cookie, which holds {MAX_COOKIE_BYTES} bytes")]
    TooLong,
    /// The cipher failed, or JSON.
    #[error("the session cannot be sealed")]
    Cipher,
}

/// Seals and opens the cookies of a listener.
pub(crate) struct Cookies {
    name: String,
    key: RandomizedNonceKey,
}

impl Cookies {
    /// Creates the cookies of a listener with a key. Cookies of one host are not kept apart by ports, so each
    /// listener of each database has a name of its own.
    pub(crate) fn new(listener: &str, key: &[u8; 32]) -> Result<Self, SealError> {
        let digest = Sha256::new()
            .chain_update("name")
            .chain_update(key)
            .chain_update(listener)
            .finalize();
        let suffix = URL_SAFE_NO_PAD.encode(&digest[..6]);
        Ok(Self {
            name: format!("observer_session_{suffix}"),
            key: RandomizedNonceKey::new(&AES_256_GCM, key).map_err(|_| SealError::Cipher)?,
        })
    }

    /// Returns the header that sets a session. `is_https` is whether the browser is reached by TLS alone.
    pub(crate) fn set(
        &self,
        session: &Session,
        is_https: bool,
        now: DateTime<Utc>,
    ) -> Result<String, SealError> {
        let mut sealed = serde_json::to_vec(session).map_err(|_| SealError::Cipher)?;
        let aad = Aad::from(self.name.as_bytes());
        let nonce = self.key.seal_in_place_append_tag(aad, &mut sealed);
        let nonce = nonce.map_err(|_| SealError::Cipher)?;
        let mut whole = nonce.as_ref().to_vec();
        whole.append(&mut sealed);
        let seconds = (session.expires_at - now).num_seconds();
        let header = self.header(&URL_SAFE_NO_PAD.encode(whole), seconds, is_https);
        if header.len() > MAX_COOKIE_BYTES {
            return Err(SealError::TooLong);
        }
        Ok(header)
    }

    /// Returns the header that removes the cookie.
    pub(crate) fn remove(&self) -> String {
        self.header("", 0, false)
    }

    fn header(&self, value: &str, seconds: i64, is_https: bool) -> String {
        let secure = if is_https { "; Secure" } else { "" };
        let name = &self.name;
        format!("{name}={value}; Path={BASE}; Max-Age={seconds}; HttpOnly; SameSite=Lax{secure}")
    }

    /// Returns the session of a request, if it has one that is genuine and not over.
    pub(crate) fn find(&self, headers: &HeaderMap, now: DateTime<Utc>) -> Option<Session> {
        let texts = headers
            .get_all(COOKIE)
            .iter()
            .filter_map(|one| one.to_str().ok());
        let pairs = texts.flat_map(|text| text.split(';'));
        let values = pairs.filter_map(|pair| pair.trim().split_once('='));
        let own = values.filter(|(name, _)| *name == self.name);
        // One that another service of this host has set is passed over.
        let mut sessions = own.filter_map(|(_, value)| self.open(value));
        sessions.find(|session| session.expires_at > now)
    }

    fn open(&self, value: &str) -> Option<Session> {
        let whole = URL_SAFE_NO_PAD.decode(value).ok()?;
        let (nonce, sealed) = whole.split_at_checked(NONCE_LEN)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
        let (aad, mut sealed) = (Aad::from(self.name.as_bytes()), sealed.to_vec());
        let plain = self.key.open_in_place(nonce, aad, &mut sealed).ok()?;
        serde_json::from_slice(plain).ok()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]

    use chrono::TimeDelta;

    use super::*;

    fn request(cookie: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        let pair = cookie.split(';').next().unwrap();
        headers.insert(COOKIE, format!("other=1; {pair}").parse().unwrap());
        headers
    }

    #[test]
    fn cookie_is_good_until_it_is_over_and_for_its_own_listener() {
        let (now, key) = (Utc::now(), [7; 32]);
        let cookies = Cookies::new("shop/shop", &key).unwrap();
        let session = Session {
            id: [1; 32],
            token: "a-token-of-somebody".to_owned(),
            expires_at: now + TimeDelta::hours(1),
        };
        let cookie = cookies.set(&session, true, now).unwrap();
        assert!(cookie.ends_with("; Path=/console; Max-Age=3600; HttpOnly; SameSite=Lax; Secure"));
        assert!(!cookie.contains("a-token"));
        let found = cookies.find(&request(&cookie), now).unwrap();
        assert_eq!((found.id, &*found.token), ([1; 32], "a-token-of-somebody"));

        let later = now + TimeDelta::hours(1);
        assert!(cookies.find(&request(&cookie), later).is_none());
        let others = Cookies::new("shop/shop", &[8; 32]).unwrap();
        assert!(others.find(&request(&cookie), now).is_none());
        let mut others = Cookies::new("shop/other", &key).unwrap();
        others.name.clone_from(&cookies.name);
        assert!(others.find(&request(&cookie), now).is_some());
        let others = Cookies::new("shop/other", &key).unwrap();
        let renamed = cookie.replace(&cookies.name, &others.name);
        assert!(others.find(&request(&renamed), now).is_none());
    }

    #[test]
    fn altered_cookie_is_none() {
        let now = Utc::now();
        let cookies = Cookies::new("shop/shop", &[7; 32]).unwrap();
        let session = Session {
            id: [1; 32],
            token: "t".repeat(20),
            expires_at: now + TimeDelta::hours(1),
        };
        let cookie = cookies.set(&session, false, now).unwrap();
        let (name, value) = cookie.split(';').next().unwrap().split_once('=').unwrap();
        let bytes = URL_SAFE_NO_PAD.decode(value).unwrap();
        for at in 0..bytes.len() {
            let mut altered = bytes.clone();
            altered[at] ^= 1;
            let altered = format!("{name}={}", URL_SAFE_NO_PAD.encode(altered));
            assert!(cookies.find(&request(&altered), now).is_none(), "byte {at}");
        }
        for wrong in ["", "x", "AAAA", &value[..value.len() / 2]] {
            assert!(
                cookies
                    .find(&request(&format!("{name}={wrong}")), now)
                    .is_none()
            );
        }
    }

    #[test]
    fn token_that_no_browser_would_keep_is_refused() {
        let now = Utc::now();
        let cookies = Cookies::new("shop/shop", &[7; 32]).unwrap();
        let mut session = Session {
            id: [1; 32],
            token: "t".repeat(2000),
            expires_at: now + TimeDelta::hours(1),
        };
        assert!(cookies.set(&session, true, now).is_ok());
        session.token = "t".repeat(4000);
        assert!(matches!(
            cookies.set(&session, true, now),
            Err(SealError::TooLong)
        ));
    }
}
