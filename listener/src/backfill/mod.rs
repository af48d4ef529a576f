//! Backfills: the rows that a table has, as events of operation `Read`, beside its changes.
//!
//! Rows are read in pages, in the order of a unique key, and appended to the change log, so that all that is
//! behind the log (shards, order, retries, replays) is theirs too. A page is written in one transaction with the
//! key of its last row: after a crash the next one continues there, and no row is in the log twice.
//!
//! A row that changes meanwhile is never delivered older than it was:
//! - Where triggers fill the log, writers commit when they like, and nothing but a lock would keep one from
//!   committing between a page's snapshot and its commit. So a page is written with its snapshot, and each reader
//!   passes over rows that a change precedes which the snapshot has not seen (`capture::backfilled`).
//! - Where one process reads the write-ahead log, it alone writes: it waits until it has read all that the page has
//!   seen, and leaves out rows whose changes it has written meanwhile (`ingest::pages`).

mod arrivals;
mod check;
mod pace;
mod request;
mod runner;
mod store;
mod table;
mod work;

pub(crate) use arrivals::PageArrivals;
pub use check::{CheckError, check};
pub(crate) use pace::PagePace;
pub use request::{BackfillFilter, BackfillRequest, FilterError, MAX_FILTERS, MAX_RATE};
pub(crate) use runner::{Backfiller, LOOK_INTERVAL, PageError, begin_read};
pub(crate) use store::start_initial;
pub use store::{Backfill, BackfillState, Change, StoreError, cancel, list, resume, start};
pub(crate) use table::KeyedTable;
pub(crate) use work::{BackfillStore, ClaimedBackfill, PageProgress, PageScope};
