//! Tests of the operator: what it builds, and what it does in a real control plane.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test may panic"
)]

mod chart;
mod control_plane;
mod editor;
mod golden;
mod metrics;
mod network_policy;
mod rights;
mod versions;
