//! What the Leases of a fleet are called, and what matters of one.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::coordination::v1::Lease;

use crate::lease::record::read_record;

/// The label that tells what a Lease of a fleet is for.
pub(crate) const ROLE_LABEL: &str = "observers.fraiseql.dev/lease";
/// Its value on the Lease that says that a process takes part.
pub(crate) const MEMBER_ROLE: &str = "member";
/// Its value on the Lease that says whose a shard is.
pub(crate) const SHARD_ROLE: &str = "shard";
/// The annotation of a member that tells of how many shards it takes its share. Without it, the
/// member takes on nothing: it is about to end.
pub(crate) const SHARDS_ANNOTATION: &str = "observers.fraiseql.dev/shards";

/// The identity of a member, which is new each time that its process joins.
pub(crate) type MemberId = Arc<str>;

/// The name of a pod.
pub(crate) type PodName = Arc<str>;

/// One shard of one layout.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct ShardId {
    /// How many shards the layout has.
    pub(crate) shard_count: u16,
    /// Which of them.
    pub(crate) shard: u16,
}

/// Which Lease of a fleet.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum LeaseKey {
    /// That of the member with this pod.
    Member(PodName),
    /// That of a shard.
    Shard(ShardId),
}

/// What matters of a Lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LeaseState {
    /// Grows with each write to any Lease.
    pub(crate) version: u64,
    /// Nobody when it was given up.
    pub(crate) holder: Option<MemberId>,
    /// How long its holder wants others to wait, as it wrote it.
    pub(crate) duration: Duration,
    /// Of how many shards the member takes its share; none where it takes on nothing.
    pub(crate) desired_shards: u16,
}

impl LeaseKey {
    /// What the Lease is called among those of `listener`.
    pub(crate) fn lease_name(&self, listener: &str) -> String {
        match self {
            Self::Member(pod) => pod.to_string(),
            Self::Shard(ShardId { shard_count, shard }) => {
                format!("{listener}-shard-{shard}-of-{shard_count}")
            }
        }
    }

    /// Which Lease of `listener` this is, if any.
    pub(crate) fn from_lease(lease: &Lease, listener: &str) -> Option<Self> {
        let label = lease.metadata.labels.as_ref()?.get(ROLE_LABEL)?;
        let name = lease.metadata.name.as_deref()?;
        match label.as_str() {
            MEMBER_ROLE => Some(Self::Member(name.into())),
            SHARD_ROLE => Self::parse_shard(name, listener),
            _ => None,
        }
    }

    /// Which shard's Lease bears this name.
    pub(crate) fn parse_shard(name: &str, listener: &str) -> Option<Self> {
        let rest = name.strip_prefix(listener)?.strip_prefix("-shard-")?;
        let (shard, shard_count) = rest.split_once("-of-")?;
        let shard_id = ShardId {
            shard_count: shard_count.parse().ok()?,
            shard: shard.parse().ok()?,
        };
        let key = Self::Shard(shard_id);
        (shard_id.shard < shard_id.shard_count && key.lease_name(listener) == name).then_some(key)
    }
}

impl LeaseState {
    /// What matters of `lease`; nothing where its version is not the number it should be.
    pub(crate) fn from_lease(lease: &Lease) -> Option<Self> {
        let record = read_record(lease);
        Some(Self {
            version: record.version.parse().ok()?,
            holder: record.holder.map(MemberId::from),
            duration: record.duration,
            desired_shards: desired_shards(lease).unwrap_or_default(),
        })
    }
}

fn desired_shards(lease: &Lease) -> Option<u16> {
    let annotations = lease.metadata.annotations.as_ref()?;
    annotations.get(SHARDS_ANNOTATION)?.parse().ok()
}

/// The pod that a process with this identity runs in.
pub(crate) fn pod_of(identity: &str) -> &str {
    identity.rsplitn(3, '_').last().unwrap_or(identity)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shard_lease_name_round_trips() {
        let shard_id = ShardId {
            shard_count: 16,
            shard: 3,
        };
        let text = LeaseKey::Shard(shard_id).lease_name("shop");
        assert_eq!(text, "shop-shard-3-of-16");
        assert_eq!(
            LeaseKey::parse_shard(&text, "shop"),
            Some(LeaseKey::Shard(shard_id))
        );
        for other in [
            "shop-shard-16-of-16",
            "shop-shard-03-of-16",
            "shop-shard-+3-of-16",
            "shop-shard-3-of-99999999",
            "shop-shard-",
            "shop",
            "bar-shard-3-of-16",
        ] {
            assert_eq!(LeaseKey::parse_shard(other, "shop"), None, "{other}");
        }
    }

    #[test]
    fn identity_contains_its_pod_name() {
        assert_eq!(pod_of("shop-0_uid_0001"), "shop-0");
        assert_eq!(pod_of("my_host_uid_0001"), "my_host");
        assert_eq!(pod_of("strange"), "strange");
        assert_eq!(pod_of(""), "");
    }
}
