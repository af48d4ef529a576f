//! Many processes that share the shards of a listener.
//!
//! Each keeps a Lease of its own, the member's, named by its pod, and renews it. Each shard has
//! a Lease that names its owner and is written only when it changes hands: it is alive as long
//! as its owner's own Lease is. All follow the changes of all, and each works out the same plan
//! of who should own what; then it claims what is planned for it and free, and hands over what
//! is planned for another. So a fleet at rest costs one write for each member and renewal, and
//! one watch for each member.
//!
//! [`join`] takes part for as long as the process lives, and hands out a [`ShardLease`] for each
//! shard that becomes this process's. When the member's Lease is lost, all holds are, at once;
//! the process then joins anew under a new identity.

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
