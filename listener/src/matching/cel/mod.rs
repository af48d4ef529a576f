//! Conditions: a dialect of CEL.

pub(crate) mod columns;
pub(crate) mod evaluate;
pub(crate) mod functions;
pub(crate) mod loops;
pub(crate) mod lower;
pub(crate) mod number;
pub(crate) mod operators;
pub(crate) mod source;
pub(crate) mod tree;
pub(crate) mod value;
