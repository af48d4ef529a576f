//! Configuration of a membership.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;

use crate::lease::{LeaseStore, Timing};

/// How a process takes part in its fleet.
#[derive(Clone)]
pub struct MembershipConfig {
    /// Store of the Leases. Its list and watch must cover the Leases with `labels`.
    pub store: Arc<dyn LeaseStore>,
    /// Name of the listener: shard `n` of `N` has the Lease `<listener>-shard-<n>-of-<N>`.
    pub listener: String,
    /// Name of this process's pod and of its own Lease. No two live processes may share it.
    pub pod: String,
    /// UID of the pod, part of this process's identities. Must not contain an underscore.
    pub uid: String,
    /// Times of the member's Lease. All members should have the same.
    pub timing: Timing,
    /// Labels of all Leases. `observers.fraiseql.dev/lease` is added, with the value `member` or
    /// `shard`.
    pub labels: BTreeMap<String, String>,
    /// Owner references of the shards' Leases.
    pub shard_lease_owners: Vec<OwnerReference>,
    /// Owner references of this process's Lease: the pod.
    pub member_lease_owners: Vec<OwnerReference>,
    /// Tells whether the process with an identity is known to have ended, so that nobody needs to
    /// wait for it. Called often: it must return at once. In a cluster it is always false.
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
