//! Cursors of pages: opaque, and signed. A cursor is good for the request that it came from, in any process
//! of the listener: with other filters, for another tenant or altered it is refused.

use ::search::PageKey;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use sqlx::PgPool;

use super::problem::Problem;
use crate::actions::postgres::own_database;

/// Bytes of a signature.
const SIGNATURE: usize = 32;

/// What the key of cursors is derived for.
const PURPOSE: &str = "cursors of the HTTP API";

/// Key that signs cursors, the same in all processes that use one database.
#[derive(Clone)]
pub(super) struct CursorKey(Hmac<Sha256>);

impl std::fmt::Debug for CursorKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("CursorKey")
    }
}

impl CursorKey {
    /// Derives the key of a database.
    pub(super) async fn load(pool: &PgPool) -> Result<Self, sqlx::Error> {
        let secret = own_database::derive_key(pool, PURPOSE).await?;
        Ok(Self::new(&secret))
    }

    fn new(secret: &[u8; 32]) -> Self {
        // A key shorter than a block is filled up with zeros, as the algorithm has it.
        let mut block = [0; 64];
        block[..secret.len()].copy_from_slice(secret);
        Self(Hmac::new(&block.into()))
    }

    /// Signs the place where a page ends, for the request that `bound_to` stands for.
    pub(super) fn sign(&self, place: &PageKey, bound_to: &str) -> Result<String, Problem> {
        let place = serde_json::to_vec(place)?;
        let mut cursor = self.mac(&place, bound_to).finalize().into_bytes().to_vec();
        cursor.extend(place);
        Ok(URL_SAFE_NO_PAD.encode(cursor))
    }

    /// Returns the place of a cursor of this request.
    pub(super) fn verify(&self, cursor: &str, bound_to: &str) -> Result<PageKey, Problem> {
        let wrong = || {
            Problem::bad_request(
                "cursor is not one of this search: pass `next` of the page before, with the same parameters",
            )
        };
        let bytes = URL_SAFE_NO_PAD.decode(cursor).map_err(|_| wrong())?;
        let (signature, place) = bytes.split_at_checked(SIGNATURE).ok_or_else(wrong)?;
        let mac = self.mac(place, bound_to);
        mac.verify_slice(signature).map_err(|_| wrong())?;
        serde_json::from_slice(place).map_err(|_| wrong())
    }

    fn mac(&self, place: &[u8], bound_to: &str) -> Hmac<Sha256> {
        let mut mac = self.0.clone();
        mac.update(&(bound_to.len() as u64).to_be_bytes());
        mac.update(bound_to.as_bytes());
        mac.update(place);
        mac
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]

    use super::*;

    #[test]
    fn cursor_is_good_for_its_own_search_alone() {
        let (key, other) = (CursorKey::new(&[1; 32]), CursorKey::new(&[2; 32]));
        let place = PageKey {
            occurred_at_micros: -5,
            log_id: 7,
            id: "a-7-b".to_owned(),
        };
        let cursor = key.sign(&place, "tenant acme").unwrap();
        assert_eq!(key.verify(&cursor, "tenant acme").unwrap(), place);
        assert!(key.verify(&cursor, "tenant globex").is_err());
        assert!(other.verify(&cursor, "tenant acme").is_err());
        for wrong in ["", "x", "AAAA", &cursor[1..], &cursor[..cursor.len() - 1]] {
            assert!(key.verify(wrong, "tenant acme").is_err(), "{wrong}");
        }
        // Every bit counts.
        let bytes = URL_SAFE_NO_PAD.decode(&cursor).unwrap();
        for at in 0..bytes.len() {
            let mut altered = bytes.clone();
            altered[at] ^= 1;
            let altered = URL_SAFE_NO_PAD.encode(altered);
            assert!(key.verify(&altered, "tenant acme").is_err(), "byte {at}");
        }
    }
}
