//! Who works on which shard: this process's part in the fleet that a listener's processes make.
//!
//! How the shards are shared is the `lease` crate's to say, the same with a cluster and without
//! one; here is where the Leases are kept, and what a process does with a shard that is its own.

pub mod live_processes;
pub mod membership;
pub(crate) mod metered_store;
pub mod postgres_lease_store;
pub(crate) mod unclaimed_shards;

pub mod heartbeat;
pub mod process;
pub mod process_commands;
