//! Signatures after the Standard Webhooks specification (symmetric, `v1`).
//!
//! What is signed is `id.timestamp.body`, so that nobody can replay a body under another id
//! or at another time. Several secrets sign side by side, so that one can be replaced while
//! receivers still know the other.

use base64::Engine;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use crds::config::Redacted;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

/// What marks a secret as one of this kind; secrets without it are taken as well.
const SECRET_PREFIX: &str = "whsec_";

/// Standard alphabet; secrets are read with and without padding, signatures written with it.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// The secret is not base64, or empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("is not a signing secret: expected whsec_ followed by base64")]
pub struct BadSecret;

/// The secrets that sign a webhook's requests.
#[derive(Clone, Default)]
pub struct Signer(Vec<Hmac<Sha256>>);

impl std::fmt::Debug for Signer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Signer({} secrets)", self.0.len())
    }
}

impl Signer {
    /// Reads the secrets; no secrets make a signer that signs nothing.
    pub fn new(secrets: &[Redacted]) -> Result<Self, BadSecret> {
        secrets.iter().map(key).collect::<Result<_, _>>().map(Self)
    }

    /// The value of `webhook-signature`: one signature for each secret, `None` without secrets.
    /// `timestamp` counts seconds since 1970.
    #[must_use]
    pub fn sign(&self, id: &str, timestamp: i64, body: &[u8]) -> Option<String> {
        let signatures: Vec<String> = self
            .0
            .iter()
            .map(|keyed| {
                let tag = over(keyed, id, timestamp, body).finalize().into_bytes();
                format!("v1,{}", BASE64.encode(tag))
            })
            .collect();
        (!signatures.is_empty()).then(|| signatures.join(" "))
    }

    /// Whether one of the signatures in `header` was made with one of the secrets. The
    /// timestamp's age is the caller's to judge.
    #[must_use]
    pub fn verify(&self, id: &str, timestamp: i64, body: &[u8], header: &str) -> bool {
        header
            .split(' ')
            .filter_map(|signature| signature.strip_prefix("v1,"))
            .filter_map(|encoded| BASE64.decode(encoded).ok())
            .any(|tag| {
                self.0
                    .iter()
                    .any(|keyed| over(keyed, id, timestamp, body).verify_slice(&tag).is_ok())
            })
    }
}

fn key(secret: &Redacted) -> Result<Hmac<Sha256>, BadSecret> {
    let text = secret.reveal().trim();
    let encoded = text.strip_prefix(SECRET_PREFIX).unwrap_or(text);
    let key = BASE64.decode(encoded).map_err(|_| BadSecret)?;
    if key.is_empty() {
        return Err(BadSecret);
    }
    Hmac::new_from_slice(&key).map_err(|_| BadSecret)
}

fn over(keyed: &Hmac<Sha256>, id: &str, timestamp: i64, body: &[u8]) -> Hmac<Sha256> {
    let mut mac = keyed.clone();
    mac.update(id.as_bytes());
    mac.update(b".");
    mac.update(timestamp.to_string().as_bytes());
    mac.update(b".");
    mac.update(body);
    mac
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]

    use super::*;

    const ID: &str = "msg_p5jXN8AQM9LWM0D4loKWxJek";
    const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

    fn signer(secrets: &[&str]) -> Signer {
        let secrets: Vec<_> = secrets.iter().map(|&text| Redacted::new(text)).collect();
        Signer::new(&secrets).unwrap()
    }

    #[test]
    fn the_specification_s_vector_comes_out() {
        let signature = signer(&[SECRET]).sign(ID, 1_614_265_330, br#"{"test": 2432232314}"#);
        assert_eq!(
            signature.as_deref(),
            Some("v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=")
        );
    }

    #[test]
    fn the_reference_library_agrees() {
        let body = br#"{"email":"test@example.com","username":"test_user"}"#;
        let reference = standardwebhooks::Webhook::new(SECRET).unwrap();
        assert_eq!(
            signer(&[SECRET]).sign(ID, 7, body),
            Some(reference.sign(ID, 7, body).unwrap())
        );
    }

    #[test]
    fn each_secret_signs_and_any_verifies() {
        let other = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD";
        let both = signer(&[SECRET, other]).sign("id", 1, b"x").unwrap();
        assert_eq!(both.split(' ').count(), 2);
        for secret in [SECRET, other] {
            assert!(signer(&[secret]).verify("id", 1, b"x", &both));
            assert!(!signer(&[secret]).verify("other", 1, b"x", &both));
            assert!(!signer(&[secret]).verify("id", 2, b"x", &both));
            assert!(!signer(&[secret]).verify("id", 1, b"y", &both));
        }
        assert!(!signer(&["whsec_AAAA"]).verify("id", 1, b"x", &both));
        assert_eq!(signer(&[]).sign("id", 1, b"x"), None);
    }

    #[test]
    fn bad_secrets_are_rejected_without_being_shown() {
        for bad in ["whsec_", "", "whsec_not base64!"] {
            let error = Signer::new(&[Redacted::new(bad)]).unwrap_err();
            assert!(!error.to_string().contains("not base64!"));
        }
        assert!(!format!("{:?}", signer(&[SECRET])).contains("MfKQ"));
    }
}
