//! Keys and states of a fleet's Leases: their names, labels and annotations.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::coordination::v1::Lease;

use crate::lease::record::read_record;

/// Label with the role of a Lease in the fleet.
pub(crate) const ROLE_LABEL: &str = "observers.fraiseql.dev/lease";
/// Role of the Lease by which a process is a member.
pub(crate) const MEMBER_ROLE: &str = "member";
/// Role of the Lease that names the owner of a shard.
pub(crate) const SHARD_ROLE: &str = "shard";
/// Annotation of a member with the shard count of the layout that it works in. A member without it
/// is shutting down and takes no shards.
pub(crate) const SHARDS_ANNOTATION: &str = "observers.fraiseql.dev/shards";

/// Identity of a member, new each time that its process joins.
pub(crate) type MemberId = Arc<str>;

/// Name of a pod.
pub(crate) type PodName = Arc<str>;

/// One shard of one layout.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct ShardId {
    /// Number of shards in the layout.
    pub(crate) shard_count: u16,
    /// Index of the shard.
    pub(crate) shard: u16,
}

/// Key of a Lease in the fleet.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum LeaseKey {
    /// The Lease of the member in this pod.
    Member(PodName),
    /// The Lease of a shard.
    Shard(ShardId),
}

/// Fields of a Lease that decisions depend on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LeaseState {
    /// Resource version, which grows with each write to any Lease.
    pub(crate) version: u64,
    /// Identity of the holder; none after a release.
    pub(crate) holder: Option<MemberId>,
    /// How long the holder wants others to wait, as it wrote it.
    pub(crate) duration: Duration,
    /// Shard count of the layout that the member works in; zero if it takes no shards.
    pub(crate) desired_shards: u16,
}

impl LeaseKey {
    /// Returns the name of the Lease among those of `listener`.
    pub(crate) fn lease_name(&self, listener: &str) -> String {
        match self {
            Self::Member(pod) => pod.to_string(),
            Self::Shard(ShardId { shard_count, shard }) => {
                format!("{listener}-shard-{shard}-of-{shard_count}")
            }
        }
    }

    /// Returns the key of a Lease, if it belongs to `listener`.
    pub(crate) fn from_lease(lease: &Lease, listener: &str) -> Option<Self> {
        let label = lease.metadata.labels.as_ref()?.get(ROLE_LABEL)?;
        let name = lease.metadata.name.as_deref()?;
        match label.as_str() {
            MEMBER_ROLE => Some(Self::Member(name.into())),
            SHARD_ROLE => Self::parse_shard(name, listener),
            _ => None,
        }
    }

    /// Parses the name of a shard's Lease.
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
    /// Extracts the state of a Lease; none if its version is not a number.
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

/// Parses the annotation with the member's shard count.
fn desired_shards(lease: &Lease) -> Option<u16> {
    let annotations = lease.metadata.annotations.as_ref()?;
    annotations.get(SHARDS_ANNOTATION)?.parse().ok()
}

/// Returns the name of the pod in which the process with this identity runs.
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
