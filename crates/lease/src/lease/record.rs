//! Reading and writing of Lease objects. Fields that other programs set are preserved.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta, OwnerReference};
use k8s_openapi::jiff::Timestamp;

use crate::lease::Identity;

/// Fields of a Lease that decisions depend on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaseRecord {
    /// Identity of the holder; none after a release.
    pub holder: Option<String>,
    /// Resource version, which changes with every write.
    pub version: String,
    /// How long the holder wants others to wait, as it wrote it.
    pub duration: Duration,
}

/// Writer of the records by which one process claims or renews a Lease.
#[derive(Clone, Debug)]
pub(crate) struct LeaseWriter {
    /// Name of the Lease.
    pub(crate) name: String,
    /// Identity of the claiming process.
    pub(crate) identity: Identity,
    /// How long others must wait for the holder.
    pub(crate) duration: Duration,
    /// Labels that the Lease gets.
    pub(crate) labels: BTreeMap<String, String>,
    /// Owner references that the Lease gets; none are set if empty.
    pub(crate) owners: Vec<OwnerReference>,
}

/// Extracts the record of a Lease.
pub(crate) fn read_record(lease: &Lease) -> LeaseRecord {
    let spec = lease.spec.as_ref();
    let seconds = spec
        .and_then(|spec| spec.lease_duration_seconds)
        .and_then(|seconds| u64::try_from(seconds).ok());
    LeaseRecord {
        holder: spec
            .and_then(|spec| spec.holder_identity.clone())
            .filter(|holder| !holder.is_empty()),
        version: lease.metadata.resource_version.clone().unwrap_or_default(),
        duration: Duration::from_secs(seconds.unwrap_or_default()),
    }
}

impl LeaseWriter {
    /// Builds the Lease that replaces `seen` (or is created) with this process as its holder. It
    /// carries the version of `seen`, so the API server rejects it after a concurrent write.
    pub(crate) fn with_holder(&self, seen: Option<&Lease>, now: SystemTime) -> Lease {
        let now = Some(micro_time(now));
        let mut lease = seen.cloned().unwrap_or_else(|| Lease {
            metadata: ObjectMeta {
                name: Some(self.name.clone()),
                ..ObjectMeta::default()
            },
            spec: None,
        });
        if !self.labels.is_empty() {
            let labels = lease.metadata.labels.get_or_insert_default();
            labels.extend(self.labels.clone());
        }
        if !self.owners.is_empty() {
            lease.metadata.owner_references = Some(self.owners.clone());
        }
        let taken = lease.spec.is_some();
        let spec = lease.spec.get_or_insert_default();
        if spec.holder_identity.as_deref() != Some(self.identity.as_str()) {
            spec.holder_identity = Some(self.identity.as_str().to_owned());
            spec.acquire_time.clone_from(&now);
            let before = spec.lease_transitions.unwrap_or_default();
            spec.lease_transitions = Some(before.saturating_add(i32::from(taken)));
        }
        spec.renew_time = now;
        // Rounds up: others must wait for the whole duration.
        let seconds = self.duration.as_secs() + u64::from(self.duration.subsec_nanos() > 0);
        spec.lease_duration_seconds = Some(i32::try_from(seconds).unwrap_or(i32::MAX));
        lease
    }
}

/// Builds the Lease that replaces `seen` and has no holder.
pub(crate) fn without_holder(seen: &Lease) -> Lease {
    let mut lease = seen.clone();
    let spec: &mut LeaseSpec = lease.spec.get_or_insert_default();
    spec.holder_identity = None;
    lease
}

fn micro_time(time: SystemTime) -> MicroTime {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    let microseconds = i64::try_from(since.as_micros()).unwrap_or(i64::MAX);
    MicroTime(Timestamp::from_microsecond(microseconds).unwrap_or(Timestamp::UNIX_EPOCH))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]

    use super::*;

    fn writer(pod: &str) -> LeaseWriter {
        LeaseWriter {
            name: "shop".to_owned(),
            identity: Identity::with_boot_id(pod, "uid", 1),
            duration: Duration::from_millis(14_500),
            labels: BTreeMap::from([("app".to_owned(), "shop".to_owned())]),
            owners: vec![OwnerReference {
                uid: "owner".to_owned(),
                ..OwnerReference::default()
            }],
        }
    }

    fn at(seconds: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(seconds)
    }

    fn spec(lease: &Lease) -> LeaseSpec {
        lease.spec.clone().unwrap()
    }

    #[test]
    fn new_lease_has_every_field() {
        let lease = writer("a").with_holder(None, at(5));
        assert_eq!(lease.metadata.name.as_deref(), Some("shop"));
        assert_eq!(lease.metadata.labels, Some(writer("a").labels));
        assert_eq!(lease.metadata.owner_references, Some(writer("a").owners));
        assert_eq!(spec(&lease).lease_transitions, Some(0));
        assert_eq!(spec(&lease).acquire_time, Some(micro_time(at(5))));
        assert_eq!(spec(&lease).renew_time, Some(micro_time(at(5))));
        assert_eq!(spec(&lease).lease_duration_seconds, Some(15));
        assert_eq!(
            read_record(&lease).holder.as_deref(),
            Some(writer("a").identity.as_str())
        );
    }

    #[test]
    fn renewal_changes_only_renew_time() {
        let first = writer("a").with_holder(None, at(5));
        let renewed = writer("a").with_holder(Some(&first), at(7));
        let expected = LeaseSpec {
            renew_time: Some(micro_time(at(7))),
            ..spec(&first)
        };
        assert_eq!(spec(&renewed), expected);
    }

    #[test]
    fn takeover_counts_a_transition_and_keeps_other_fields() {
        let mut seen = writer("a").with_holder(None, at(5));
        seen.metadata.resource_version = Some("7".to_owned());
        seen.metadata.annotations = Some(BTreeMap::from([("k".to_owned(), "v".to_owned())]));
        for seen in [seen.clone(), without_holder(&seen)] {
            let taken = writer("b").with_holder(Some(&seen), at(9));
            assert_eq!(taken.metadata, seen.metadata);
            assert_eq!(spec(&taken).lease_transitions, Some(1));
            assert_eq!(spec(&taken).acquire_time, Some(micro_time(at(9))));
        }
    }

    #[test]
    fn released_or_emptied_lease_has_no_holder() {
        let held_lease = writer("a").with_holder(None, at(5));
        assert_eq!(read_record(&without_holder(&held_lease)).holder, None);
        let mut emptied = held_lease;
        emptied.spec.get_or_insert_default().holder_identity = Some(String::new());
        assert_eq!(read_record(&emptied).holder, None);
    }

    #[test]
    fn negative_duration_reads_as_zero() {
        let mut lease = writer("a").with_holder(None, at(5));
        lease.spec.get_or_insert_default().lease_duration_seconds = Some(-1);
        assert_eq!(read_record(&lease).duration, Duration::ZERO);
    }
}
