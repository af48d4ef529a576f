//! What a backfill is asked for.

use std::str::FromStr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Most filters of a backfill.
pub const MAX_FILTERS: usize = 16;

/// Most rows per second that may be asked for.
pub const MAX_RATE: u32 = 1_000_000;

/// Comparisons of filters, the longer ones first.
const OPERATORS: [&str; 6] = ["!=", "<=", ">=", "=", "<", ">"];

/// A backfill to start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BackfillRequest {
    /// Identity of the listener.
    pub listener: String,
    /// Table, as `schema.table`.
    pub entity: String,
    /// The only observer that the events are for; all that watch `Read` of the table where absent.
    pub observer: Option<String>,
    /// Only rows for which all of these hold.
    pub filters: Vec<BackfillFilter>,
    /// Most rows per second.
    pub rate: Option<u32>,
}

/// Comparison of a column with a constant.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct BackfillFilter {
    /// The column.
    pub column: String,
    /// `=`, `!=`, `<`, `<=`, `>` or `>=`.
    pub operator: String,
    /// The constant, as Postgres reads it for the column's type.
    pub value: String,
}

/// The text is not a filter.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("`{0}` is no filter: write a column, one of = != < <= > >=, and a value, as `status=paid`")]
pub struct FilterError(String);

impl FromStr for BackfillFilter {
    type Err = FilterError;

    fn from_str(text: &str) -> Result<Self, FilterError> {
        let wrong = || FilterError(text.chars().take(80).collect());
        let at = text.find(['=', '!', '<', '>']).ok_or_else(wrong)?;
        let (column, rest) = text.split_at(at);
        let operator = OPERATORS.iter().find(|one| rest.starts_with(**one));
        let operator = operator.ok_or_else(wrong)?;
        let column = column.trim();
        if column.is_empty() || text.contains('\0') {
            return Err(wrong());
        }
        Ok(Self {
            column: column.to_owned(),
            operator: (*operator).to_owned(),
            value: rest[operator.len()..].to_owned(),
        })
    }
}

impl BackfillFilter {
    /// Its operator, if it is one.
    pub(super) fn known_operator(&self) -> Option<&'static str> {
        OPERATORS.into_iter().find(|one| *one == self.operator)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_are_a_column_an_operator_and_the_rest() {
        let parsed = |text: &str| {
            let filter: Result<BackfillFilter, _> = text.parse();
            filter.map(|one| (one.column, one.operator, one.value)).ok()
        };
        let filter = |a: &str, b: &str, c: &str| Some((a.to_owned(), b.to_owned(), c.to_owned()));
        assert_eq!(parsed("status=paid"), filter("status", "=", "paid"));
        assert_eq!(parsed("a >= 1"), filter("a", ">=", " 1"));
        assert_eq!(parsed("a<=>b"), filter("a", "<=", ">b"));
        assert_eq!(parsed("note!="), filter("note", "!=", ""));
        assert_eq!(parsed("a==b"), filter("a", "=", "=b"));
        assert_eq!(parsed("We \"ird>1"), filter("We \"ird", ">", "1"));
        for wrong in ["", "status", "=1", " =1", "a!1", "a=\0"] {
            assert_eq!(parsed(wrong), None, "{wrong}");
        }
    }
}
