//! What the Leases of a fleet are called, and what matters of one.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::coordination::v1::Lease;

use crate::lease::record::read_record;

/// The label that tells what a Lease of a fleet is for.
pub(crate) const LABEL: &str = "observers.fraiseql.dev/lease";
/// Its value on the Lease that says that a process takes part.
pub(crate) const MEMBER: &str = "member";
/// Its value on the Lease that says whose a shard is.
pub(crate) const SHARD: &str = "shard";
/// The annotation of a member that tells of how many shards it takes its share. Without it, the
/// member takes on nothing: it is about to end.
pub(crate) const SHARDS: &str = "observers.fraiseql.dev/shards";

/// An identity or the name of a pod.
pub(crate) type Id = Arc<str>;

/// One shard of one layout.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Place {
    /// How many shards the layout has.
    pub(crate) of: u16,
    /// Which of them.
    pub(crate) shard: u16,
}

/// Which Lease of a fleet.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Name {
    /// That of the member with this pod.
    Member(Id),
    /// That of a shard.
    Shard(Place),
}

/// What matters of a Lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Fact {
    /// Grows with each write to any Lease.
    pub(crate) version: u64,
    /// Nobody when it was given up.
    pub(crate) holder: Option<Id>,
    /// How long its holder wants others to wait, as it wrote it.
    pub(crate) wait: Duration,
    /// Of how many shards the member takes its share; none where it takes on nothing.
    pub(crate) takes: u16,
}

impl Name {
    /// What the Lease is called among those of `listener`.
    pub(crate) fn text(&self, listener: &str) -> String {
        match self {
            Self::Member(pod) => pod.to_string(),
            Self::Shard(Place { of, shard }) => format!("{listener}-shard-{shard}-of-{of}"),
        }
    }

    /// Which Lease of `listener` this is, if any.
    pub(crate) fn of(lease: &Lease, listener: &str) -> Option<Self> {
        let label = lease.metadata.labels.as_ref()?.get(LABEL)?;
        let name = lease.metadata.name.as_deref()?;
        match label.as_str() {
            MEMBER => Some(Self::Member(name.into())),
            SHARD => Self::shard(name, listener),
            _ => None,
        }
    }

    /// Which shard's Lease bears this name.
    pub(crate) fn shard(name: &str, listener: &str) -> Option<Self> {
        let rest = name.strip_prefix(listener)?.strip_prefix("-shard-")?;
        let (shard, of) = rest.split_once("-of-")?;
        let place = Place {
            of: of.parse().ok()?,
            shard: shard.parse().ok()?,
        };
        let name_again = Self::Shard(place);
        (place.shard < place.of && name_again.text(listener) == name).then_some(name_again)
    }
}

impl Fact {
    /// What matters of `lease`; nothing where its version is not the number it should be.
    pub(crate) fn of(lease: &Lease) -> Option<Self> {
        let record = read_record(lease);
        Some(Self {
            version: record.version.parse().ok()?,
            holder: record.holder.map(Id::from),
            wait: record.duration,
            takes: takes(lease).unwrap_or_default(),
        })
    }
}

fn takes(lease: &Lease) -> Option<u16> {
    let annotations = lease.metadata.annotations.as_ref()?;
    annotations.get(SHARDS)?.parse().ok()
}

/// The pod that a process with this identity runs in.
pub(crate) fn pod_of(identity: &str) -> &str {
    identity.rsplitn(3, '_').last().unwrap_or(identity)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_of_a_shard_is_read_as_it_is_written() {
        let place = Place { of: 16, shard: 3 };
        let text = Name::Shard(place).text("shop");
        assert_eq!(text, "shop-shard-3-of-16");
        assert_eq!(Name::shard(&text, "shop"), Some(Name::Shard(place)));
        for other in [
            "shop-shard-16-of-16",
            "shop-shard-03-of-16",
            "shop-shard-+3-of-16",
            "shop-shard-3-of-99999999",
            "shop-shard-",
            "shop",
            "bar-shard-3-of-16",
        ] {
            assert_eq!(Name::shard(other, "shop"), None, "{other}");
        }
    }

    #[test]
    fn an_identity_tells_its_pod() {
        assert_eq!(pod_of("shop-0_uid_0001"), "shop-0");
        assert_eq!(pod_of("my_host_uid_0001"), "my_host");
        assert_eq!(pod_of("strange"), "strange");
        assert_eq!(pod_of(""), "");
    }
}
