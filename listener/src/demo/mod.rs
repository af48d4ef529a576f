//! What a first look needs besides the listener itself: a Postgres and a receiver.

pub mod binaries;
pub mod server;
pub mod sink;
