//! That private servers keep what they promise to tests and the demo.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test may panic")]

mod browser;
mod private_server;
