//! Leader election and fleet membership on Kubernetes Leases. [`Elector`] elects one leader for one
//! task; [`membership`] lets many processes share the shards of a listener.
//!
//! Guarantees and their assumptions:
//!
//! - A holder stops at its own renew deadline, which counts from before it sent the last successful
//!   renewal. Another process takes over a held Lease only after it has observed the same record
//!   for longer than that. No process compares its clock with another's; only the rates of two
//!   clocks must agree, within `duration / renew_deadline`.
//! - Each write names the resource version that it replaces, so a late or repeated write has no
//!   effect.
//! - Every request and every wait is bounded, and the deadline has a timer of its own.
//!
//! A machine that was suspended as a whole can wake up and trust a deadline that others have seen
//! expire. No Lease protects against that. Work that must not happen twice needs fencing where it
//! takes effect, such as the epochs of the checkpoints.
//!
//! The required RBAC verbs on `coordination.k8s.io/leases` are `get`, `create` and `update`, and
//! `watch` for a takeover without polling. All but `create` can be bound to the Lease's name.
//! Membership also needs `list`, `watch` and `delete`, on all Leases of the namespace.

pub mod election;
mod lease;
pub mod membership;

#[cfg(test)]
mod testing;

pub use election::{Elector, Leadership};
pub use lease::{
    Identity, KubeLeaseStore, LeaseEvent, LeaseEvents, LeaseRecord, LeaseStore, LeaseWatch,
    StoreError, Timing, TimingError,
};
