//! Reconciles an `ObserverListener`: dereference, validate, build, apply, update the status.

pub mod apply;
mod autoscale;
pub mod build;
mod deletion;
pub mod derived_egress;
pub mod finalizer;
pub mod pod_status;
mod reconcile;
pub mod status;
mod update_status;
pub mod validate;

pub(crate) use reconcile::ListenerState;
