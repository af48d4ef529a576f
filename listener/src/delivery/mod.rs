//! The words of a delivery, which all rooms share.

pub mod event;
pub mod retry_policy;
