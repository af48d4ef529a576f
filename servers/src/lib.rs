//! Servers of a program's own, for demonstrations and tests. They listen on the loopback address,
//! keep their data in a temporary folder, and go when their owner does, however it ends.

pub mod binaries;
pub mod postgres;
