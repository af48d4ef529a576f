//! What tests and the demo share: private servers, sinks for deliveries and how these are judged,
//! databases of a test's own, and waiting for a condition.
//!
//! Everything listens on the loopback address, keeps its data in a temporary folder, and goes when
//! its owner does, however that ends.

#![cfg_attr(
    feature = "tests",
    allow(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::missing_panics_doc,
        clippy::disallowed_methods,
        reason = "helpers of tests fail the test that calls them"
    )
)]

#[cfg(feature = "tests")]
pub mod certs;
#[cfg(feature = "tests")]
pub mod cut_proxy;
#[cfg(feature = "tests")]
pub mod database;
#[cfg(feature = "tests")]
pub mod fault_proxy;
#[cfg(feature = "tests")]
pub mod fuzz;
pub mod http_sink;
#[cfg(feature = "tests")]
pub mod memory_cgroup;
#[cfg(feature = "tests")]
pub mod page;
#[cfg(feature = "tests")]
pub mod seed;
pub mod servers;
#[cfg(feature = "tests")]
pub mod soak;
pub mod tally;
#[cfg(feature = "tests")]
pub mod wait;
