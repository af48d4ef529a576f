//! Test support: a fake API server, and simulations with random faults.

mod election_simulation;
pub(crate) mod fake_api_server;
mod simulation;

/// Microseconds of true time in a simulation.
type Micros = u64;
