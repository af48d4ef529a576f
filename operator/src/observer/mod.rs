//! Reconciles an `Observer`: its status, from what the listeners that select it say.

pub mod evaluation;
mod reconcile;
pub mod secrets_inline;
pub mod status;
