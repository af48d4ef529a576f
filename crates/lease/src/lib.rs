//! Leadership by a Kubernetes Lease: at most one process works at a time. [`Elector`] is for one
//! piece of work as a whole; [`membership`] is for many processes that share the shards of one.
//!
//! What it promises, and upon what:
//!
//! - A holder stops at its own deadline, counted from before it sent the renewal that succeeded.
//!   Another process takes a held Lease only when it has itself looked at one and the same
//!   record for longer than that. No process compares its clock with another's; only the rates
//!   of two clocks must agree, within `duration / renew_deadline`.
//! - Each write names the version that it replaces, so a late or repeated one changes nothing.
//! - Every call and every wait is bounded, and the deadline has a timer of its own.
//!
//! A whole machine that was suspended can wake up believing in a deadline that others have
//! seen pass. No Lease protects against that: what must not be done twice needs a fence where
//! it is done, such as the epochs of the checkpoints.
//!
//! The verbs needed on `coordination.k8s.io/leases` are `get`, `create` and `update`, and, to
//! take over at once instead of at the next look, `watch`. All but `create` can be bound to the
//! Lease's name. A fleet needs `list`, `watch` and `delete` besides, on all of them.

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
