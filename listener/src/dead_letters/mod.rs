//! Deliveries that were given up on.

pub mod admin;
pub mod replay;
pub(crate) mod retention;
pub mod store;
