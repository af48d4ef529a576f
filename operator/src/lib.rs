//! The operator: it watches listeners, observers and what they refer to, gives each listener what
//! it needs in the cluster, and says in their status how they are.
//!
//! A reconcile is five steps: dereference, validate, build, apply, update the status. Those in the
//! middle are pure functions over plain data; the others talk to the API server.

pub mod api;
pub mod apply;
pub mod build;
pub mod conditions;
pub mod controller;
pub mod finalize;
pub mod index;
pub mod key;
pub mod notices;
pub mod probe;
pub mod queue;
pub mod reconcile;
pub mod report;
pub mod run;
pub mod secrets;
pub mod seen;
pub mod status;
pub mod telemetry;
pub mod validate;
pub mod verdict;
pub mod watch;
