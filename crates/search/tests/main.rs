//! One suite that runs on every backend, and tests of what only one of them has.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test may panic")]
#![allow(
    clippy::too_many_lines,
    clippy::format_collect,
    reason = "tables of cases are long, and their texts are made in place"
)]

mod elasticsearch;
mod merge;
mod postgres;
mod suite;
mod support;
