//! The `observer-listener` program.

fn main() {}
