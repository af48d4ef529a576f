//! What users write and what they are told.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test may panic")]

mod bundle;
mod definitions;
mod diagnostics;
mod examples;
mod formats;
mod rules;
mod search;
