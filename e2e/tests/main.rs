//! The operator and the listeners in a cluster, as their users run them: one test binary.
//!
//! `make e2e` brings up a cluster and runs it. Each test has a namespace of its own, with the
//! restricted Pod Security Standard enforced; those that need the operator share one installation.
//! The tests run one after another, because some of them take the operator away.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test may panic"
)]

mod scenarios;
mod support;
