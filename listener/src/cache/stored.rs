//! A result as a tier stores it, and its form in bytes.
//!
//! The bytes are: `OC1`, flags, the progress and the two times in milliseconds (big-endian, 8 bytes each),
//! the JSON (compressed where it is large), and the first 16 bytes of a SHA-256 of the key and all before.
//! Whatever a server returns that is not such a result of this very key is no result.

use std::io::{Read, Write};
use std::sync::Arc;
use std::time::Duration;

use flate2::Compression;
use flate2::read::DeflateDecoder;
use flate2::write::DeflateEncoder;
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};

use super::invalidation::Progress;
use super::key::CacheKey;

/// Most bytes of a result that is stored, as JSON.
pub(crate) const MAX_RESULT_BYTES: usize = 256 << 10;

/// Results from this size on are compressed, in bytes.
const COMPRESS_FROM: usize = 4 << 10;

const MAGIC: &[u8; 3] = b"OC1";
const IS_NULL: u8 = 1;
const IS_COMPRESSED: u8 = 2;
const HEADER: usize = MAGIC.len() + 1 + 3 * 8;
const CHECKSUM: usize = 16;

/// A result, as JSON; nothing is a null.
pub(crate) type CachedJson = Option<Arc<RawValue>>;

/// A result, and for how long it may be used.
#[derive(Clone, Debug)]
pub(crate) struct StoredResult {
    pub(crate) result: CachedJson,
    /// What had been seen of the change log before it was looked up.
    pub(crate) progress: Progress,
    /// For how long it is used.
    pub(crate) fresh: Duration,
    /// For how long after that it is used where a lookup fails.
    pub(crate) stale: Duration,
}

impl StoredResult {
    /// Returns how many bytes of JSON it has.
    pub(crate) fn len(&self) -> usize {
        self.result.as_deref().map_or(0, |json| json.get().len())
    }

    /// Returns its bytes, to be stored for its two times together.
    pub(crate) fn encode(&self, key: &CacheKey) -> std::io::Result<Vec<u8>> {
        let json = self.result.as_deref().map_or("", RawValue::get).as_bytes();
        let mut flags = 0;
        if self.result.is_none() {
            flags |= IS_NULL;
        }
        let is_large = json.len() >= COMPRESS_FROM;
        if is_large {
            flags |= IS_COMPRESSED;
        }
        let mut bytes = Vec::with_capacity(HEADER + CHECKSUM + json.len());
        bytes.extend(MAGIC);
        bytes.push(flags);
        for number in [self.progress.0, millis(self.fresh), millis(self.stale)] {
            bytes.extend(number.to_be_bytes());
        }
        if is_large {
            let mut encoder = DeflateEncoder::new(&mut bytes, Compression::fast());
            encoder.write_all(json)?;
            encoder.finish()?;
        } else {
            bytes.extend(json);
        }
        let checksum = checksum(key, &bytes);
        bytes.extend(checksum);
        Ok(bytes)
    }

    /// Parses what [`StoredResult::encode`] made, and which a tier still keeps for `left`; `None` for anything
    /// else.
    pub(crate) fn decode(key: &CacheKey, bytes: &[u8], left: Duration) -> Option<Self> {
        let (body, sum) = bytes.split_last_chunk::<CHECKSUM>()?;
        if checksum(key, body) != *sum {
            return None;
        }
        let (header, payload) = body.split_first_chunk::<HEADER>()?;
        let (magic, header) = header.split_first_chunk::<3>()?;
        let (flags, numbers) = header.split_first()?;
        if magic != MAGIC {
            return None;
        }
        let mut numbers = numbers
            .chunks_exact(8)
            .filter_map(|bytes| Some(u64::from_be_bytes(bytes.try_into().ok()?)));
        let (progress, fresh, stale) = (numbers.next()?, numbers.next()?, numbers.next()?);
        let json = if flags & IS_COMPRESSED == 0 {
            payload.to_vec()
        } else {
            let mut json = Vec::new();
            let limit = u64::try_from(MAX_RESULT_BYTES).ok()? + 1;
            let mut decoder = DeflateDecoder::new(payload).take(limit);
            decoder.read_to_end(&mut json).ok()?;
            json
        };
        if json.len() > MAX_RESULT_BYTES {
            return None;
        }
        let result = if flags & IS_NULL == 0 {
            let text = String::from_utf8(json).ok()?;
            Some(Arc::from(RawValue::from_string(text).ok()?))
        } else {
            None
        };
        let (fresh, stale) = (Duration::from_millis(fresh), Duration::from_millis(stale));
        // It was kept for both times together.
        Some(Self {
            result,
            progress: Progress(progress),
            fresh: left.saturating_sub(stale).min(fresh),
            stale: stale.min(left),
        })
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

fn checksum(key: &CacheKey, body: &[u8]) -> [u8; CHECKSUM] {
    let digest = Sha256::new()
        .chain_update(key.bytes())
        .chain_update(body)
        .finalize();
    let mut first = [0; CHECKSUM];
    first.copy_from_slice(&digest[..CHECKSUM]);
    first
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]

    use proptest::prelude::*;

    use super::*;
    use crate::cache::key::CacheKeyBuilder;

    const MINUTE: Duration = Duration::from_mins(1);

    fn key(part: &str) -> CacheKey {
        CacheKeyBuilder::empty().part(part.as_bytes()).finish()
    }

    fn stored(json: Option<String>) -> StoredResult {
        StoredResult {
            result: json.map(|text| Arc::from(RawValue::from_string(text).unwrap())),
            progress: Progress(7),
            fresh: MINUTE,
            stale: MINUTE,
        }
    }

    fn text(stored: &StoredResult) -> Option<&str> {
        stored.result.as_deref().map(RawValue::get)
    }

    #[test]
    fn results_come_back_as_they_were() {
        let large = format!("{:?}", "a".repeat(MAX_RESULT_BYTES - 2));
        for json in [None, Some("{\"a\": 0.10}".to_owned()), Some(large)] {
            let stored = stored(json);
            let bytes = stored.encode(&key("a")).unwrap();
            assert!(bytes.len() < 5000, "{}", bytes.len());
            let found = StoredResult::decode(&key("a"), &bytes, MINUTE * 2).unwrap();
            assert_eq!(text(&found), text(&stored));
            assert_eq!((found.progress, found.fresh), (Progress(7), MINUTE));
            assert!(StoredResult::decode(&key("b"), &bytes, MINUTE).is_none());
        }
    }

    #[test]
    fn times_are_what_is_left_of_them() {
        let bytes = stored(None).encode(&key("a")).unwrap();
        let left = |seconds| {
            let left = Duration::from_secs(seconds);
            let found = StoredResult::decode(&key("a"), &bytes, left).unwrap();
            (found.fresh.as_secs(), found.stale.as_secs())
        };
        assert_eq!(left(120), (60, 60));
        assert_eq!(left(90), (30, 60));
        assert_eq!(left(60), (0, 60));
        assert_eq!(left(10), (0, 10));
        assert_eq!(left(100_000), (60, 60));
    }

    #[test]
    fn small_bytes_do_not_become_a_large_result() {
        let mut json = vec![b'0'; 100 << 20];
        json[0] = b'1';
        let mut bomb = stored(None).encode(&key("a")).unwrap();
        bomb.truncate(HEADER);
        bomb[3] = IS_COMPRESSED;
        let mut encoder = DeflateEncoder::new(&mut bomb, Compression::best());
        encoder.write_all(&json).unwrap();
        encoder.finish().unwrap();
        bomb.extend(checksum(&key("a"), &bomb.clone()));
        assert!(StoredResult::decode(&key("a"), &bomb, MINUTE).is_none());
    }

    proptest! {
        #[test]
        fn other_bytes_are_no_result(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            prop_assert!(StoredResult::decode(&key("a"), &bytes, MINUTE).is_none());
        }

        #[test]
        fn changed_bytes_are_no_result(at in any::<prop::sample::Index>(), to in any::<u8>()) {
            let mut bytes = stored(Some("[1]".to_owned())).encode(&key("a")).unwrap();
            let at = at.index(bytes.len());
            prop_assume!(bytes[at] != to);
            bytes[at] = to;
            prop_assert!(StoredResult::decode(&key("a"), &bytes, MINUTE).is_none());
        }
    }
}
