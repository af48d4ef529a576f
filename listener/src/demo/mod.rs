//! What a first look needs besides the listener itself: a Postgres, a receiver, and a small shop
//! in which things happen.

mod figures;
pub mod play;
mod receiver;
pub mod screen;
mod shop;
mod stage;
mod summary;
mod tally;
