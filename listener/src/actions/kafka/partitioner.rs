//! Partitioner compatible with Kafka's own clients, so that other producers put records of the same keys
//! into the same partitions.
//!
//! Source: `org.apache.kafka.common.utils.Utils.murmur2` and `BuiltInPartitioner`.

const SEED: u32 = 0x9747_b28c;
const M: u32 = 0x5bd1_e995;

/// Returns the partition of a key among `count`, which is at least 1.
pub(super) fn partition(key: &[u8], count: usize) -> usize {
    let positive = murmur2(key) & 0x7fff_ffff;
    usize::try_from(positive).unwrap_or_default() % count.max(1)
}

/// The hash of that name by Austin Appleby, in the version for 32 bits, with the seed of Kafka.
fn murmur2(data: &[u8]) -> u32 {
    // It is defined with a length of 32 bits.
    let length = u32::try_from(data.len()).unwrap_or(u32::MAX);
    let mut hash = SEED ^ length;
    let words = data.chunks_exact(4);
    let rest = words.remainder();
    for word in words {
        let mut k = word
            .iter()
            .rev()
            .fold(0, |k, byte| (k << 8) | u32::from(*byte));
        k = k.wrapping_mul(M);
        k ^= k >> 24;
        k = k.wrapping_mul(M);
        hash = hash.wrapping_mul(M) ^ k;
    }
    if !rest.is_empty() {
        hash ^= rest
            .iter()
            .rev()
            .fold(0, |k, byte| (k << 8) | u32::from(*byte));
        hash = hash.wrapping_mul(M);
    }
    hash ^= hash >> 13;
    hash = hash.wrapping_mul(M);
    hash ^ (hash >> 15)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The cases of Kafka's own `UtilsTest.testMurmur2`.
    #[test]
    fn hashes_are_those_of_kafka() {
        for (text, hash) in [
            ("21", -973_932_308_i32),
            ("foobar", -790_332_482),
            ("a-little-bit-long-string", -985_981_536),
            ("a-little-bit-longer-string", -1_486_304_829),
            (
                "lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8",
                -58_897_971,
            ),
            ("abc", 479_470_107),
        ] {
            assert_eq!(murmur2(text.as_bytes()).cast_signed(), hash, "{text}");
        }
    }

    #[test]
    fn every_partition_is_one_of_them() {
        for key in 0..1000_u32 {
            for count in [1, 3, 16] {
                assert!(partition(&key.to_be_bytes(), count) < count);
            }
        }
    }
}
