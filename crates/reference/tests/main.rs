//! The documentation fits the code: generated pages, links, and alerts.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test may panic"
)]

mod alerts;
mod dashboard;
mod fresh;
mod links;
mod man;
mod markdown;
mod queries;
mod reasons;
