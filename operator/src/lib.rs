//! The operator: it watches listeners, observers and what they refer to, gives each listener what
//! it needs in the cluster, and says in their status how they are.
//!
//! A reconcile is five steps: dereference, validate, build, apply, update the status. Those in the
//! middle are pure functions over plain data; the others talk to the API server.

// The command line names this crate as its other users do.
extern crate self as observer_operator;

pub mod cache;
pub mod cli;
pub mod conditions;
pub mod controller;
pub mod events;
pub mod http;
pub mod kind_queues;
pub mod listener;
pub mod object_ref;
pub mod observer;
pub mod probe;
mod publish;
pub mod reconcile;
pub mod run;
pub mod secrets;
pub mod telemetry;
pub mod work_queue;
