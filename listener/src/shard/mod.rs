//! Who works on which shard: this process's part in the fleet that a listener's processes make.
//!
//! How the shards are shared is the `lease` crate's to say, the same with a cluster and without
//! one; here is where the Leases are kept, and what a process does with a shard that is its own.

pub(crate) mod counted;
pub mod database;
pub mod fleet;
pub mod heartbeat;
pub mod present;
pub mod process;
pub(crate) mod waiting;
pub(crate) mod work;
