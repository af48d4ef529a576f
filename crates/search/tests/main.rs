//! One suite that runs on every backend, and tests of what only one of them has.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test may panic")]

mod merge;
mod postgres;
mod suite;
mod support;
