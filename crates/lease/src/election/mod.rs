//! Leader election: at most one process holds a Lease at a time.

pub mod decision;
mod elector;
mod leadership;

pub use elector::Elector;
pub use leadership::Leadership;
