//! Actions off the fast path: jobs, and those given up on.

mod burial;
pub mod dead_letter;
mod effort;
pub(crate) mod figures;
pub mod job;
mod life;
pub mod place;
mod ready;
pub mod replay;
mod run;
pub(crate) mod setup;
mod tell;
mod upkeep;
pub(crate) mod worker;
