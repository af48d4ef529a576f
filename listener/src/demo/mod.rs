//! What a first look needs besides the listener itself.

pub mod sink;
