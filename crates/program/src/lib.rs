//! What all programs of ours do alike: logging that never blocks, and an orderly stop on a signal.

pub mod lines;
pub mod logs;
pub mod signals;
mod writer;
