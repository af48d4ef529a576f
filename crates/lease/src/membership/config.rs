//! How a process takes part.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;

use crate::lease::{LeaseStore, Timing};

/// How a process takes part in its fleet.
#[derive(Clone)]
pub struct MembershipConfig {
    /// Where the Leases are kept. Its list and changes must cover those with `labels`.
    pub store: Arc<dyn LeaseStore>,
    /// The listener: shard `n` of `N` has the Lease `<listener>-shard-<n>-of-<N>`.
    pub listener: String,
    /// The name of this process's pod, and of its own Lease. No two processes that live may
    /// share it.
    pub pod: String,
    /// The uid of the pod, a part of this process's identities. Without an underscore.
    pub uid: String,
    /// The times of the member's Lease. All members should have the same.
    pub timing: Timing,
    /// Labels of all Leases. `observers.fraiseql.dev/lease` is set besides, to `member` or
    /// `shard`.
    pub labels: BTreeMap<String, String>,
    /// With whom the Leases of the shards are to go.
    pub shard_lease_owners: Vec<OwnerReference>,
    /// With whom the Lease of this process is to go: the pod.
    pub member_lease_owners: Vec<OwnerReference>,
    /// Whether the process with an identity is known to have ended, so that nobody needs to
    /// wait for it. Asked often: it must answer at once. In a cluster it never is.
    pub known_dead: Arc<dyn Fn(&str) -> bool + Send + Sync>,
}

impl fmt::Debug for MembershipConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MembershipConfig")
            .field("listener", &self.listener)
            .field("pod", &self.pod)
            .field("uid", &self.uid)
            .field("timing", &self.timing)
            .finish_non_exhaustive()
    }
}
