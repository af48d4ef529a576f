//! What Postgres' logical decoding sends by its plugin `pgoutput`, protocol version 1, and how a row of it
//! becomes JSON: byte for byte as `row_to_json` writes it in a session with the settings of [`SETTINGS`].
//!
//! Nothing here does input or output, and nothing panics on any input.

mod json;
mod literal;
mod message;
mod types;

pub use json::{JsonError, write_value};
pub use message::{
    Column, DecodeError, Identity, LogicalMessage, OldTuple, PgMessage, Relation, Tuple, Value,
};
pub use types::{JsonType, TypeCatalog, TypeEntry};

/// Session settings that the text of values depends on, as `set` takes them; the same as in the capture functions.
pub const SETTINGS: [(&str, &str); 6] = [
    ("timezone", "UTC"),
    ("datestyle", "ISO"),
    ("intervalstyle", "postgres"),
    ("bytea_output", "hex"),
    ("extra_float_digits", "1"),
    ("lc_monetary", "C"),
];
