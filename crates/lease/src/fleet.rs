//! Many processes that share the shards of a listener.
//!
//! Each keeps a Lease of its own, the member's, named by its pod, and renews it. Each shard has
//! a Lease that names its owner and is written only when it changes hands: it is alive as long
//! as its owner's own Lease is. All follow the changes of all, and each works out the same plan
//! of who should own what; then it claims what is planned for it and free, and hands over what
//! is planned for another. So a fleet at rest costs one write for each member and renewal, and
//! one watch for each member.
//!
//! [`join`] takes part for as long as the process lives, and hands out a [`Hold`] for each
//! shard that becomes this process's. When the member's Lease is lost, all holds are, at once;
//! the process then joins anew under a new identity.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;

use crate::lease::store::LeaseStore;
use crate::lease::timing::Timing;

mod book;
mod core;
mod driver;
mod hold;
mod membership;
mod name;
mod plan;
mod view;

pub use driver::join;
pub use hold::Hold;
pub use plan::plan;

/// How a process takes part in its fleet.
#[derive(Clone)]
pub struct Options {
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
    pub owners: Vec<OwnerReference>,
    /// With whom the Lease of this process is to go: the pod.
    pub member_owners: Vec<OwnerReference>,
    /// Whether the process with an identity is known to have ended, so that nobody needs to
    /// wait for it. Asked often: it must answer at once. In a cluster it never is.
    pub dead: Arc<dyn Fn(&str) -> bool + Send + Sync>,
}

impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Options")
            .field("listener", &self.listener)
            .field("pod", &self.pod)
            .field("uid", &self.uid)
            .field("timing", &self.timing)
            .finish_non_exhaustive()
    }
}

/// What a process knows of its fleet.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// The identity of this process; none while it is no member.
    pub identity: Option<String>,
    /// How many processes take part, this one included.
    pub members: usize,
    /// How many shards there are to be.
    pub of: u16,
    /// Each of them, in order.
    pub shards: Vec<Seat>,
    /// What keeps this process from knowing or writing the Leases, and since when.
    pub trouble: Option<String>,
}

/// What a process knows of one shard.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seat {
    /// The shard.
    pub shard: u16,
    /// The identity of the member that owns it.
    pub holder: Option<String>,
    /// Whether this process holds it.
    pub mine: bool,
    /// Whether it is planned for this process, which does not hold it yet.
    pub wanted: bool,
}

#[cfg(test)]
mod simulation;
#[cfg(test)]
mod tests;
