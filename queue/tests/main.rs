//! What both backends keep true: one suite, run for each of them; and what only one of them has.

mod postgres;
mod redis;
mod suite;
mod support;
