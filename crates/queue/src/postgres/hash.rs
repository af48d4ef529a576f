//! Hashes by which rows are found; they stay the same for as long as jobs are kept.

use sha2::{Digest, Sha256};

use crate::Lane;

/// Position in the rotation over actions and tenants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct RoundRobinCursor {
    /// See [`action_hash`].
    pub(super) action_hash: i64,
    /// See [`tenant_hash`].
    pub(super) tenant_hash: i32,
}

impl Default for RoundRobinCursor {
    fn default() -> Self {
        Self {
            action_hash: i64::MIN,
            tenant_hash: i32::MIN,
        }
    }
}

/// Hashes an action of an observer.
pub(super) fn action_hash(observer: &str, action: &str) -> i64 {
    hash(&[observer.as_bytes(), action.as_bytes()])
}

/// Hashes a lane. The upper half is the hash of listener, observer and action, so that the lanes of an
/// action are adjacent, and the lower half is the hash of the key. Lanes that collide are processed as
/// one, which harms neither.
pub(super) fn lane_id(listener: &str, lane: &Lane) -> i64 {
    let action = [
        listener.as_bytes(),
        lane.observer.as_bytes(),
        lane.action.as_bytes(),
    ];
    // Leaves room for the end of the last action's range.
    let upper = (hash(&action) >> 32).min(i64::from(i32::MAX) - 1);
    (upper << 32) | i64::from(lane.hash)
}

/// Hashes a tenant.
pub(super) fn tenant_hash(tenant: Option<&str>) -> i32 {
    match tenant {
        None => 0,
        Some(tenant) => (hash(&[tenant.as_bytes()]) >> 32) as i32,
    }
}

fn hash(parts: &[&[u8]]) -> i64 {
    let mut digest = Sha256::new();
    for part in parts {
        // The length separates the parts.
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

    fn lane(observer: &str, action: &str, hash: u32) -> Lane {
        Lane {
            observer: observer.into(),
            action: action.into(),
            hash,
        }
    }

    #[test]
    fn hashed_parts_are_separated() {
        assert_ne!(action_hash("a/b", "c"), action_hash("a/", "bc"));
        assert_ne!(
            lane_id("l", &lane("a", "b", 1)),
            lane_id("l", &lane("a", "b", 2))
        );
        assert_ne!(tenant_hash(Some("a")), tenant_hash(None));
    }

    #[test]
    fn hashes_are_stable() {
        let lane = lane("shop/orders", "notify", 7);
        assert_eq!(lane_id("shop/main", &lane), -5_621_365_888_356_712_441);
    }
}
