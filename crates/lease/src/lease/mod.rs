//! One Lease: its record, store, timing and holder identity, and the client that reads and writes
//! it.

pub(crate) mod client;
mod identity;
pub(crate) mod record;
pub(crate) mod store;
pub(crate) mod timing;

pub use identity::Identity;
pub use record::LeaseRecord;
pub use store::{KubeLeaseStore, LeaseEvent, LeaseEvents, LeaseStore, LeaseWatch, StoreError};
pub use timing::{Timing, TimingError};
