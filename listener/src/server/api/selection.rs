//! Bodies of changes: what is changed by its ids, or all that match something.

use std::borrow::Cow;

use axum::http::StatusCode;
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Number, Value};

use super::endpoint::Call;
use super::problem::Problem;

/// Maximum number of ids of one change.
pub(super) const MAX_IDS: usize = 10_000;

/// Response to a change.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub(super) struct AffectedCount {
    /// How many were changed.
    pub(super) count: u64,
}

/// Text that what is changed must have. It is never empty: an empty one, as of a variable that is not set,
/// would mean "all" to one reader and "none" to another.
#[derive(Debug, Deserialize)]
#[serde(try_from = "String")]
pub(super) struct FilterText(String);

impl FilterText {
    /// Returns the text, where there is one.
    pub(super) fn text(text: Option<Self>) -> Option<String> {
        text.map(|Self(text)| text)
    }
}

impl TryFrom<String> for FilterText {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        if text.is_empty() {
            return Err("a text of a filter must not be empty; leave it out instead");
        }
        if has_nul(&text) {
            return Err("a text of a filter holds a NUL character");
        }
        Ok(Self(text))
    }
}

impl JsonSchema for FilterText {
    fn schema_name() -> Cow<'static, str> {
        "FilterText".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        schemars::json_schema!({ "type": "string", "minLength": 1, "pattern": "^[^\u{0}]*$" })
    }
}

/// Largest id that every client can write as a number.
const MAX_ID: i64 = (1 << 53) - 1;

/// Number of a row. JSON has but one kind of numbers, so `7.0` is 7.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(try_from = "Number")]
pub(super) struct RowId(pub(super) i64);

impl TryFrom<Number> for RowId {
    type Error = &'static str;

    fn try_from(number: Number) -> Result<Self, Self::Error> {
        let text = number.to_string();
        let digits = text
            .split_once('.')
            .filter(|(_, rest)| rest.bytes().all(|digit| digit == b'0'))
            .map_or(&*text, |(digits, _)| digits);
        match digits.parse() {
            Ok(id) if (1..=MAX_ID).contains(&id) => Ok(Self(id)),
            _ => Err("an id must be a whole number from 1 on"),
        }
    }
}

impl JsonSchema for RowId {
    fn schema_name() -> Cow<'static, str> {
        "RowId".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        schemars::json_schema!({ "type": "integer", "minimum": 1, "maximum": MAX_ID })
    }
}

/// Ids, or all that match something.
pub(super) enum Selector<I, A> {
    Ids(I),
    All(A),
}

/// Returns the schema of what is one of these.
pub(super) fn one_of(schemas: &[Schema]) -> Schema {
    schemars::json_schema!({ "oneOf": schemas })
}

/// Parses a body that names ids, or all that match something.
pub(super) fn by_ids_or_all<I, A>(call: &Call, what: &str) -> Result<Selector<I, A>, Problem>
where
    I: DeserializeOwned,
    A: DeserializeOwned,
{
    let body: Value = call.json()?;
    let has = |name: &str| body.get(name).is_some();
    match (has("ids"), has("all")) {
        (true, false) => Ok(Selector::Ids(parse(body)?)),
        (false, true) => Ok(Selector::All(parse(body)?)),
        _ => Err(invalid(format!(
            "give either `ids`, or `all: true` with {what}"
        ))),
    }
}

/// Parses a body that is JSON already.
pub(super) fn parse<T: DeserializeOwned>(body: Value) -> Result<T, Problem> {
    serde_json::from_value(body).map_err(|error| Problem::of_body(&error))
}

/// Checks what a schema says beyond types.
pub(super) fn invalid(detail: impl Into<String>) -> Problem {
    Problem::new(StatusCode::UNPROCESSABLE_ENTITY, detail)
}

/// Returns whether a text holds a NUL character, which nothing in Postgres does.
pub(super) fn has_nul(text: &str) -> bool {
    text.contains('\0')
}

/// Rejects a number of ids that is out of bounds.
pub(super) fn check_ids<T>(ids: &[T]) -> Result<(), Problem> {
    if !(1..=MAX_IDS).contains(&ids.len()) {
        return Err(invalid(format!("ids must be 1 to {MAX_IDS} ids")));
    }
    Ok(())
}
