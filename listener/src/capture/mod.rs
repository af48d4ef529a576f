//! Change capture: reads committed changes from the change log, each exactly once and in order
//! within a key.
//!
//! Transactions commit in another order than they draw ids, so the log is read in windows:
//! everything that a later snapshot sees and an earlier one does not, in id order.

pub(crate) mod backfilled;
pub mod change_log;
pub(crate) mod changed_keys;
pub mod notifications;
pub mod poll_loop;
pub mod position;
pub mod reader;
pub mod retention;
pub mod snapshot;
pub(crate) mod stored_position;
pub mod tail;
