//! One suite that runs on both backends, and tests of what only one of them has.

#![allow(
    clippy::disallowed_methods,
    reason = "no test cuts off a transaction that it begins"
)]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test may panic")]

mod postgres;
mod redis;
mod suite;
mod support;
