//! Admission control: what may be sent to an endpoint now.

pub mod action_runtime;

pub(crate) mod control;
pub mod endpoint_gate;
pub(crate) mod host_limits;
pub(crate) mod memory_budget;
pub(crate) mod redis_limiter;
pub(crate) mod redis_semaphore;
