//! The numbers by which rows are found: hashes that stay the same for as long as jobs are kept.

use sha2::{Digest, Sha256};

/// One place in the rotation over actions and tenants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Turn {
    /// See [`act`].
    pub(super) act: i64,
    /// See [`turn`].
    pub(super) turn: i32,
}

impl Default for Turn {
    fn default() -> Self {
        Self {
            act: i64::MIN,
            turn: i32::MIN,
        }
    }
}

/// Names an action of an observer.
pub(super) fn act(observer: &str, action: &str) -> i64 {
    hash(&[observer.as_bytes(), action.as_bytes()])
}

/// Names a lane: the upper half is of listener, observer and action, so that the lanes of an action
/// lie together, and the lower one is the hash of the key. Two that share a number by chance are
/// worked on as one, which harms neither.
pub(super) fn lane(listener: &str, observer: &str, action: &str, hash_of_key: u32) -> i64 {
    let of = [listener.as_bytes(), observer.as_bytes(), action.as_bytes()];
    // What comes after the last one has a number too.
    let upper = (hash(&of) >> 32).min(i64::from(i32::MAX) - 1);
    (upper << 32) | i64::from(hash_of_key)
}

/// Names a tenant.
pub(super) fn turn(tenant: Option<&str>) -> i32 {
    match tenant {
        None => 0,
        Some(tenant) => (hash(&[tenant.as_bytes()]) >> 32) as i32,
    }
}

fn hash(parts: &[&[u8]]) -> i64 {
    let mut digest = Sha256::new();
    for part in parts {
        // Lengths, so that what ends one part cannot begin the next.
        digest.update(u64::try_from(part.len()).unwrap_or(u64::MAX).to_be_bytes());
        digest.update(part);
    }
    let digest = digest.finalize();
    let mut first = [0; 8];
    first.copy_from_slice(&digest[..8]);
    i64::from_be_bytes(first)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_do_not_run_into_each_other() {
        assert_ne!(act("a/b", "c"), act("a/", "bc"));
        assert_ne!(lane("l", "a", "b", 1), lane("l", "a", "b", 2));
        assert_ne!(turn(Some("a")), turn(None));
    }

    #[test]
    fn numbers_stay_the_same() {
        assert_eq!(lane("shop/main", "shop/orders", "notify", 7), LANE);
    }

    /// What rows of older programs hold.
    const LANE: i64 = -5_621_365_888_356_712_441;
}
