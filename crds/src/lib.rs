//! The resource types of the observers for Postgres, their defaults and their validation.
//!
//! This crate reads and writes nothing: it turns text into values that cannot be wrong.

pub mod bundle;
pub mod config;
pub mod duration;
pub mod load;
pub mod report;
pub mod resources;
