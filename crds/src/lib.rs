//! The resource types of the observers for Postgres, their defaults and their validation.
//!
//! This crate reads and writes nothing: it turns text into values that cannot be wrong. `v1alpha1`
//! has the resources as users write them, `manifest` reads files of them, `validation` has the rules
//! that no schema can say, and `config` what comes out; `loader` goes from the one to the other.

pub mod bundle;
pub mod config;
pub mod duration;
pub mod endpoints;
pub mod inline_secrets;
pub mod loader;
pub mod manifest;
pub mod pod_status;
pub mod v1alpha1;
mod validation;

pub use validation::names::is_label as is_domain_label;
