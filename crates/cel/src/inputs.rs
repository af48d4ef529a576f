//! Inputs of a condition: the variables that it may refer to.

use crate::value::{Fields, JsonError};

/// Values that the variable `operation` can have. A condition that compares it with another text is
/// refused, since it would never hold.
pub const OPERATIONS: [&str; 6] = ["Insert", "Update", "Delete", "Truncate", "Custom", "Read"];

/// Event that a condition is evaluated on.
pub trait Inputs {
    /// The variable `operation`, one of [`OPERATIONS`].
    fn operation(&self) -> &str;

    /// The variable `entity`.
    fn entity(&self) -> &str;

    /// The variable `key`.
    fn key(&self) -> Option<&str>;

    /// The variable `tenant`.
    fn tenant(&self) -> Option<&str>;

    /// The variable `old` or `new`; an error where its JSON cannot be read. It is asked for whenever an
    /// expression looks into it, so what was read is to be kept.
    fn image(&self, side: Side) -> Result<&Image<'_>, JsonError>;

    /// The variable `enrich`: an object of the results of lookups, by their names. Only conditions that
    /// were compiled with lookups ask for it; like an image, it is read once.
    fn enrich(&self) -> Result<&Image<'_>, JsonError>;

    /// Whether the event is a change of one row. On others no field has changed.
    fn is_row_change(&self) -> bool;
}

/// Side of a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// Before.
    Old,
    /// After.
    New,
}

impl Side {
    /// Name of the variable.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Old => "old",
            Self::New => "new",
        }
    }
}

/// Image of a row, or the payload of an event of the user's own.
#[derive(Debug)]
pub enum Image<'e> {
    /// There is none: the operation has none on this side.
    Absent,
    /// A row, or a payload that is an object.
    Row(Fields<'e>),
    /// A payload that is no object, as JSON.
    Other(&'e str),
}

impl<'e> Image<'e> {
    /// Reads an image from its JSON, where there is one; the values of its fields stay unread.
    pub fn read(json: Option<&'e str>) -> Result<Self, JsonError> {
        match json.map(str::trim_ascii) {
            None => Ok(Self::Absent),
            Some(text) if text.starts_with('{') => Fields::read(text).map(Self::Row),
            Some(text) => Ok(Self::Other(text)),
        }
    }
}
