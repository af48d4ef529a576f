//! A dialect of CEL for conditions on changed rows. A [`Condition`] is compiled once and evaluated on
//! any number of events, which give their [`Inputs`].
//!
//! The grammar is that of the crate `cel`, of which only the parser is used. The evaluator is our own,
//! for three reasons:
//!
//! - **Exact decimals.** CEL has 64-bit integers and doubles. Postgres' `numeric` has any number of
//!   digits, and a comparison of money must not depend on the nearest double.
//! - **Bounded cost.** A condition must not be able to stop a listener that many observers share.
//!   Length, tokens, nesting and patterns are bounded when a condition is compiled, and the work on one
//!   event is bounded by a budget in about bytes looked at.
//! - **Errors without values.** A failure is kept beside the event and logged, so it names fields and
//!   parts of the expression, and never quotes a value of a row.
//!
//! Where the dialect departs from the standard:
//!
//! | | here |
//! |---|---|
//! | numbers | one kind, decimal and exact; `7 / 2` is `3.5`; quotients have 100 digits |
//! | text that holds a number | compares with numbers as a number; other text is an error |
//! | other unlike kinds | cannot be compared: an error, unless one is `null` |
//! | `has(old.x)` | false where there is no such image |
//! | `changed(f)` | the field's value before is not that after; no row has no value |
//! | `changed_to(f, v)` | the value after is `v`, and that before is not |
//! | `changed_from(f, v)` | the value before is `v`, and that after is not |
//! | objects in braces, bytes | not offered |
//!
//! So on `Insert` and `Read` a field has changed if the row has it, and on `Delete` likewise; on
//! `Truncate` and `Custom` nothing has.

mod columns;
mod condition;
mod evaluate;
mod explain;
mod functions;
mod inputs;
mod loops;
mod lower;
pub mod names;
pub mod number;
mod operators;
mod source;
pub mod tree;
pub mod value;

pub use condition::{Condition, ConditionError, Place};
pub use evaluate::{ErrorKind, EvaluationError};
pub use inputs::{Image, Inputs, OPERATIONS, Side};

#[cfg(test)]
mod tests;
