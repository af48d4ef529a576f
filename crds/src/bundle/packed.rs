//! How a bundle is stored: its text compressed by gzip, and divided over as many Secrets as that takes.
//!
//! The first Secret has the hash of the text and the number of Secrets. It is written last. A reader that finds parts
//! with another hash reads them again.

use std::fmt::{self, Write as _};
use std::io::{Read, Write};

use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use sha2::{Digest, Sha256};

/// Name of the text where a problem with it is told.
pub const BUNDLE_NAME: &str = "bundle.yaml";

/// Key of the compressed text, or of a part of it, in each Secret of a bundle.
pub const BUNDLE_KEY: &str = "bundle.yaml.gz";

/// Key of the listener with its own secrets and no observers, in the first Secret: what it takes to remove what the
/// listener keeps elsewhere.
pub const LISTENER_KEY: &str = "listener.yaml";

/// Annotation with the hash of the text, SHA-256 in hexadecimal, on each Secret of a bundle.
pub const HASH_ANNOTATION: &str = "observers.fraiseql.dev/bundle-hash";

/// Annotation with the number of Secrets, on the first of them.
pub const PARTS_ANNOTATION: &str = "observers.fraiseql.dev/bundle-parts";

/// Most bytes in one Secret: the limit of the API server, less the Secret's own fields.
pub const MAX_SECRET_BYTES: usize = (1 << 20) - (16 << 10);

/// Most Secrets of one bundle.
pub const MAX_PARTS: usize = 8;

/// Longest text of a bundle in bytes. The pods and the operator hold it in memory, several times while it is loaded.
pub const MAX_TEXT_BYTES: usize = 16 << 20;

/// How much fits into a bundle.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// Most bytes in one Secret.
    pub(super) secret: usize,
    /// Most Secrets.
    pub(super) parts: usize,
    /// Most bytes of the text.
    pub(super) text: usize,
}

impl Limits {
    /// What Kubernetes stores, and what pods can hold in memory.
    pub(super) const DEFAULT: Self = Self {
        secret: MAX_SECRET_BYTES,
        parts: MAX_PARTS,
        text: MAX_TEXT_BYTES,
    };
}

/// Level of the compression. Higher ones take longer than they are worth for each change of an observer.
const LEVEL: u32 = 3;

/// The compressed text of a bundle, in parts for one Secret each. It holds secrets.
#[derive(Clone, PartialEq, Eq)]
pub struct PackedBundle(Vec<Vec<u8>>);

impl fmt::Debug for PackedBundle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PackedBundle({} parts)", self.0.len())
    }
}

impl PackedBundle {
    /// Compresses a text, and divides it. The first Secret has this many bytes beside its part. Returns nothing if the
    /// text does not fit.
    pub(super) fn new(text: &str, beside: usize, limits: Limits) -> Option<Self> {
        let first = limits.secret.checked_sub(beside)?;
        if text.len() > limits.text {
            return None;
        }
        let mut encoder = encoder();
        // Writing to memory does not fail.
        encoder.write_all(text.as_bytes()).ok()?;
        let packed = encoder.finish().ok()?;
        let (head, rest) = packed.split_at(first.min(packed.len()));
        let rest = rest.chunks(limits.secret).map(<[u8]>::to_vec);
        let parts: Vec<Vec<u8>> = [head.to_vec()].into_iter().chain(rest).collect();
        (parts.len() <= limits.parts).then_some(Self(parts))
    }

    /// Returns the parts, of which there is one at least.
    #[must_use]
    pub fn parts(&self) -> &[Vec<u8>] {
        &self.0
    }
}

/// Returns the hash that identifies a text: its SHA-256 in hexadecimal.
#[must_use]
pub fn hash(text: &[u8]) -> String {
    let digest = Sha256::digest(text);
    digest.iter().fold(String::new(), |mut hash, byte| {
        // Writing to a string does not fail.
        let _ = write!(hash, "{byte:02x}");
        hash
    })
}

/// Returns the name of a Secret of a bundle, which are counted from 1; `first` is the name of the first.
#[must_use]
pub fn part_name(first: &str, part: usize) -> String {
    match part {
        0 | 1 => first.to_owned(),
        part => format!("{first}-{part}"),
    }
}

/// Why parts are no bundle.
#[derive(Debug, thiserror::Error)]
pub enum UnpackError {
    /// They are not what was compressed, or not all of it.
    #[error("it is not compressed as it should be: {0}")]
    Format(#[from] std::io::Error),
    /// The text is longer than any bundle.
    #[error("it is longer than {} MiB", MAX_TEXT_BYTES >> 20)]
    TooLarge,
}

/// Restores the text of a bundle from all of its parts.
pub fn unpack(parts: &[&[u8]]) -> Result<Vec<u8>, UnpackError> {
    let packed = parts.concat();
    let most = u64::try_from(MAX_TEXT_BYTES).unwrap_or(u64::MAX);
    let mut text = Vec::new();
    GzDecoder::new(&packed[..])
        .take(most.saturating_add(1))
        .read_to_end(&mut text)?;
    if text.len() > MAX_TEXT_BYTES {
        return Err(UnpackError::TooLarge);
    }
    Ok(text)
}

/// Tells how many pieces of a text fit into a bundle, about: what is compressed shows a little later.
pub(super) struct Room {
    encoder: GzEncoder<Vec<u8>>,
    text: usize,
    beside: usize,
    limits: Limits,
}

impl Room {
    /// Begins with the room that this many bytes beside the first part leave.
    pub(super) fn new(beside: usize, limits: Limits) -> Self {
        Self {
            encoder: encoder(),
            text: 0,
            beside,
            limits,
        }
    }

    /// Adds a piece. Returns false once there are too many.
    pub(super) fn add(&mut self, piece: &str) -> bool {
        self.text = self.text.saturating_add(piece.len());
        let most = self.limits.secret * self.limits.parts;
        self.text <= self.limits.text
            && self.encoder.write_all(piece.as_bytes()).is_ok()
            && self.encoder.get_ref().len() + self.beside <= most
    }
}

fn encoder() -> GzEncoder<Vec<u8>> {
    GzEncoder::new(Vec::new(), Compression::new(LEVEL))
}

/// Texts and limits of tests.
#[cfg(test)]
pub(super) mod samples {
    use super::Limits;

    /// So little that a test takes no time.
    pub(in super::super) const SMALL: Limits = Limits {
        secret: 10_000,
        parts: 8,
        text: 400_000,
    };

    /// Returns text that compresses to half of its length.
    pub(in super::super) fn noise(bytes: usize, seed: u32) -> String {
        let mut value = u64::from(seed) + 7;
        let mut noise = String::with_capacity(bytes);
        for _ in 0..bytes {
            // Knuth's generator for 64 bits, whose upper ones are as good as random.
            value = value
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            noise.extend(char::from_digit((value >> 60) as u32, 16));
        }
        noise
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]

    use super::samples::{SMALL, noise};
    use super::*;

    #[test]
    fn texts_of_all_sizes_come_back_from_their_parts() {
        for (text, parts) in [
            (String::new(), 1),
            ("a: 1\n".to_owned(), 1),
            (noise(50_000, 0), 3),
            ("x".repeat(SMALL.text), 1),
        ] {
            let packed = PackedBundle::new(&text, 1000, SMALL).unwrap();
            assert_eq!(packed.parts().len(), parts);
            assert!(packed.parts()[0].len() + 1000 <= SMALL.secret);
            let pieces: Vec<&[u8]> = packed.parts().iter().map(Vec::as_slice).collect();
            assert_eq!(unpack(&pieces).unwrap(), text.as_bytes());
            let shown = format!("{packed:?}");
            assert!(shown.len() < 30, "{shown}");
        }
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let new = |text: &str, beside| PackedBundle::new(text, beside, SMALL);
        assert!(new(&noise(120_000, 0), 0).is_some());
        assert!(new(&noise(160_000, 0), 0).is_none());
        assert!(new(&"x".repeat(SMALL.text + 1), 0).is_none());
        assert!(new("", SMALL.secret + 1).is_none());
    }

    #[test]
    fn parts_that_do_not_belong_together_are_no_bundle() {
        let packed = PackedBundle::new(&noise(50_000, 0), 0, SMALL).unwrap();
        let mut pieces: Vec<&[u8]> = packed.parts().iter().map(Vec::as_slice).collect();
        pieces.swap(0, 1);
        assert!(unpack(&pieces).is_err());
        pieces.swap(0, 1);
        pieces.pop();
        assert!(unpack(&pieces).is_err(), "one is missing");
        assert!(unpack(&[b"a: 1"]).is_err());
        let mut bomb = encoder();
        bomb.write_all(&vec![b' '; MAX_TEXT_BYTES + 1]).unwrap();
        let bomb = bomb.finish().unwrap();
        assert!(matches!(unpack(&[&bomb]), Err(UnpackError::TooLarge)));
    }
}
