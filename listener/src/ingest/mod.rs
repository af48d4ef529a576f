//! Ingestion: the write-ahead log of a server as a source of the change log.
//!
//! One process at a time reads a logical replication slot and appends what it sends to the change log, with
//! the position in the same transaction. So each change is in the log once, and all that is behind the log
//! stays as it is. The slot advances to what is saved and no further; it never waits for a receiver.
//!
//! Who reads is decided in Postgres, by the row of the source: a lease by the clock of the database, and an
//! epoch that each write carries. Listeners that share a change log share its sources, so that a slot is
//! decoded once however many they are.

mod catalog;
mod changes;
mod connection;
mod driver;
mod entity_change;
mod envelope;
mod error;
mod kafka;
mod opening;
mod pages;
pub mod preparation;
pub mod removal;
mod rows;
mod setup;
mod slot_watch;
mod store;
mod stream;
mod strikes;
mod table_plan;

pub(crate) use connection::catalog_pool;
pub(crate) use driver::Ingester;
pub use error::IngestError;
