//! Fleet membership: many processes share the shards of a listener.
//!
//! Each process is a member with a Lease of its own, named after its pod, and renews it as a
//! heartbeat. Each shard has a Lease that names its owner; it is written only when the shard
//! changes hands, and is valid as long as its owner's own Lease is. All members watch all Leases,
//! and each computes the same assignment of shards to members. Then it claims shards that are
//! assigned to it and unowned, and releases shards that are assigned to others. A fleet at rest
//! costs one write per member and renewal, and one watch per member.
//!
//! [`join`] takes part for as long as the process lives, and grants a [`ShardLease`] for each shard
//! that this process acquires. When the member's Lease is lost, all shard leases are lost with it,
//! at once; the process then joins again under a new identity.

mod assignment;
mod config;
mod deadline;
mod driver;
mod lease_cache;
pub(crate) mod names;
mod shard_lease;
pub(crate) mod state_machine;
mod status;
mod view;

pub use assignment::assign_shards;
pub use config::MembershipConfig;
pub use driver::join;
pub use shard_lease::ShardLease;
pub use status::{MembershipStatus, ShardAssignment};

#[cfg(test)]
mod tests;
