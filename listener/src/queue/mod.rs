//! Actions off the fast path. For now: those given up on.

pub mod dead_letter;
