//! What both backends keep true: one suite, run for each of them; and what only one of them has.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test may panic")]

mod postgres;
mod redis;
mod suite;
mod support;
