//! The rules that the schemas of the resources cannot say: from a resource to its configuration.
//!
//! Every check reports all that it finds, and goes on with a placeholder in the place of what is
//! wrong.

mod action;
mod api;
pub(crate) mod context;
mod egress;
mod enrich;
pub(crate) mod listener;
pub(crate) mod names;
pub(crate) mod observer;
mod pod_template;
mod queue;
mod rate_limit;
mod redis_server;
mod search;
mod source;
mod tls;
mod url;
