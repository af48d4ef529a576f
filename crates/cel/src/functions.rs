//! What the functions of a condition do.

use std::borrow::Cow;

use chrono::{DateTime, NaiveDate, NaiveDateTime, SecondsFormat, TimeDelta, Utc};
use regex::Regex;

use crate::evaluate::{Evaluation, Outcome, Stop, failed, missing, unreadable};
use crate::inputs::{Image, Side};
use crate::number::Number;
use crate::operators::{Site, Subject};
use crate::tree::{Function, Node};
use crate::value::{Fields, Value};

impl<'v> Evaluation<'v> {
    pub(crate) fn call(
        &mut self,
        at: usize,
        function: Function,
        arguments: &'v [Node],
    ) -> Outcome<'v> {
        match (function, arguments) {
            (Function::Size, [of]) => self.size(at, of),
            (Function::StartsWith, [text, part]) => {
                self.search(at, "startsWith", [text, part], |text, part| {
                    text.starts_with(part)
                })
            }
            (Function::EndsWith, [text, part]) => {
                self.search(at, "endsWith", [text, part], |text, part| {
                    text.ends_with(part)
                })
            }
            (Function::Contains, [text, part]) => {
                self.search(at, "contains", [text, part], |text, part| {
                    text.contains(part)
                })
            }
            (Function::Changed, [field]) => self.changed(at, field),
            (Function::ChangedTo, [field, value]) => self.became(at, Side::New, field, value),
            (Function::ChangedFrom, [field, value]) => self.became(at, Side::Old, field, value),
            (conversion, [of]) => self.convert(at, conversion, of),
            // The number of arguments was checked when the condition was compiled.
            _ => failed(at, "this call has too many arguments".to_owned()),
        }
    }

    fn size(&mut self, at: usize, of: &'v Node) -> Outcome<'v> {
        let value = self.value(of)?;
        let count = if let Value::Text(text) = &value {
            self.spend(at, text.len())?;
            text.chars().count()
        } else if let Some(elements) = self.elements(at, &value, || of.describe())? {
            elements.len()
        } else if let Some(fields) = self.open(at, &value, || of.describe())? {
            fields.len()
        } else {
            let message = format!("`size`: {} is {}", of.describe(), value.kind());
            return failed(at, message);
        };
        Ok(Value::Number(Number::from(count)))
    }

    fn search(
        &mut self,
        at: usize,
        name: &str,
        parts: [&'v Node; 2],
        found: impl Fn(&str, &str) -> bool,
    ) -> Outcome<'v> {
        let [text, part] = [self.text(name, parts[0])?, self.text(name, parts[1])?];
        self.spend(at, text.len().saturating_add(part.len()))?;
        Ok(Value::Bool(found(&text, &part)))
    }

    pub(crate) fn matches(
        &mut self,
        at: usize,
        text: &'v Node,
        pattern: &Regex,
    ) -> Result<bool, Stop> {
        let text = self.text("matches", text)?;
        // The time a pattern takes grows with the text and, at worst, with its own length.
        self.spend(
            at,
            text.len().saturating_mul(1 + pattern.as_str().len() / 16),
        )?;
        Ok(pattern.is_match(&text))
    }

    /// The value of a part that must be text.
    fn text(&mut self, function: &str, node: &'v Node) -> Result<Cow<'v, str>, Stop> {
        match self.value(node)? {
            Value::Text(text) => Ok(text),
            other => {
                let (subject, kind) = (node.describe(), other.kind());
                let message = format!("`{function}` needs text, but {subject} is {kind}");
                failed(node.at, message)
            }
        }
    }

    fn convert(&mut self, at: usize, function: Function, of: &'v Node) -> Outcome<'v> {
        let value = self.value(of)?;
        self.spend(at, value.weight())?;
        let converted = match (function, &value) {
            (Function::Int | Function::Double, Value::Number(_) | Value::Text(_)) => {
                let number = match &value {
                    Value::Text(text) => Number::parse(text).map(Number::into_owned),
                    Value::Number(number) => Some(number.clone()),
                    _ => None,
                };
                number.map(|number| match function {
                    Function::Int => Value::Number(number.truncated()),
                    _ => Value::Number(number),
                })
            }
            (Function::Text, value) => text_of(value).map(|text| Value::Text(Cow::Owned(text))),
            (Function::Bool, Value::Bool(value)) => Some(Value::Bool(*value)),
            (Function::Bool, Value::Text(text)) => match &**text {
                "true" | "t" => Some(Value::Bool(true)),
                "false" | "f" => Some(Value::Bool(false)),
                _ => None,
            },
            (Function::Timestamp, Value::Text(text)) => timestamp(text).map(Value::Timestamp),
            (Function::Duration, Value::Text(text)) => duration(text).map(Value::Duration),
            (Function::Timestamp, Value::Timestamp(_))
            | (Function::Duration, Value::Duration(_)) => {
                return Ok(value);
            }
            _ => None,
        };
        converted.map_or_else(
            || {
                let (subject, kind) = (of.describe(), value.kind());
                let what = match function {
                    Function::Int | Function::Double => "a number",
                    Function::Bool => "a boolean",
                    Function::Timestamp => "a timestamp such as 2025-01-31T12:00:00Z",
                    Function::Duration => "a duration such as 1h30m",
                    _ => "text",
                };
                failed(
                    at,
                    format!("{subject} is {kind} and cannot be read as {what}"),
                )
            },
            Ok,
        )
    }

    /// Whether a field's value differs between before and after, where no row has no value.
    fn changed(&mut self, at: usize, field: &'v Node) -> Outcome<'v> {
        let name = self.text("changed", field)?;
        let Some([before, after]) = self.both_sides(at, &name)? else {
            return Ok(Value::Bool(false));
        };
        let bytes = |text: Option<&str>| text.map_or(0, str::len);
        self.spend(at, bytes(before).min(bytes(after)))?;
        Ok(Value::Bool(before != after))
    }

    /// Whether a field has a value on one side, and not on the other.
    fn became(&mut self, at: usize, side: Side, field: &'v Node, value: &'v Node) -> Outcome<'v> {
        let function = match side {
            Side::New => "changed_to",
            Side::Old => "changed_from",
        };
        let name = self.text(function, field)?;
        let wanted = self.value(value)?;
        let Some([before, after]) = self.both_sides(at, &name)? else {
            return Ok(Value::Bool(false));
        };
        let (here, there) = match side {
            Side::New => (("new", after), ("old", before)),
            Side::Old => (("old", before), ("new", after)),
        };
        for ((image, text), expected) in [(here, true), (there, false)] {
            let subjects = Site {
                at,
                symbol: function,
                left: Subject::Field(image, &name),
                right: Subject::Part(value),
            };
            let equal = match text {
                Some(text) => {
                    let found = self.read(at, &name, text)?;
                    self.equal(subjects, &found, &wanted)?
                }
                None => false,
            };
            if equal != expected {
                return Ok(Value::Bool(false));
            }
        }
        Ok(Value::Bool(true))
    }

    /// A field's texts before and after, or nothing for an event that changes no row.
    fn both_sides(&mut self, at: usize, name: &str) -> Result<Option<[Option<&'v str>; 2]>, Stop> {
        if !self.inputs.is_row_change() {
            return Ok(None);
        }
        let rows = [self.row(at, Side::Old)?, self.row(at, Side::New)?];
        let texts = rows.map(|row| row.and_then(|fields| fields.get(name)));
        if texts == [None, None] {
            let known: Vec<_> = rows.into_iter().rev().flatten().take(1).collect();
            return failed(at, missing(name, "the row", &known));
        }
        Ok(Some(texts))
    }

    fn row(&mut self, at: usize, side: Side) -> Result<Option<&'v Fields<'v>>, Stop> {
        let name = || format!("`{}`", side.name());
        match self.inputs.image(side) {
            Ok(Image::Row(fields)) => Ok(Some(fields)),
            Ok(Image::Absent | Image::Other(_)) => Ok(None),
            Err(error) => Err(unreadable(at, &name(), error)),
        }
    }
}

fn text_of(value: &Value<'_>) -> Option<String> {
    Some(match value {
        Value::Bool(value) => value.to_string(),
        Value::Number(number) => number.to_text(),
        Value::Text(text) => text.clone().into_owned(),
        Value::Timestamp(time) => time.to_rfc3339_opts(SecondsFormat::AutoSi, true),
        Value::Duration(span) => format!("{}s", span.as_seconds_f64()),
        _ => return None,
    })
}

/// A time as Postgres writes it in JSON; one without an offset counts as UTC.
pub(crate) fn timestamp(text: &str) -> Option<DateTime<Utc>> {
    if let Ok(time) = DateTime::parse_from_rfc3339(text) {
        return Some(time.to_utc());
    }
    let local = ["%Y-%m-%dT%H:%M:%S%.f", "%Y-%m-%d %H:%M:%S%.f"]
        .iter()
        .find_map(|format| NaiveDateTime::parse_from_str(text, format).ok());
    let midnight = || {
        NaiveDate::parse_from_str(text, "%Y-%m-%d")
            .ok()?
            .and_hms_opt(0, 0, 0)
    };
    local.or_else(midnight).map(|time| time.and_utc())
}

/// A duration as CEL writes it: `1h30m`, `-1.5s`, `250ms`.
pub(crate) fn duration(text: &str) -> Option<TimeDelta> {
    let (sign, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (-1, rest),
        None => (1, text),
    };
    let mut nanoseconds: i64 = 0;
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let unit_at = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (amount, tail) = rest.split_at(unit_at);
        let unit_end = tail
            .find(|c: char| c.is_ascii_digit() || c == '.')
            .unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(unit_end);
        let scale: i64 = match unit {
            "h" => 3_600_000_000_000,
            "m" => 60_000_000_000,
            "s" => 1_000_000_000,
            "ms" => 1_000_000,
            "us" => 1_000,
            "ns" => 1,
            _ => return None,
        };
        let (whole, fraction) = amount.split_once('.').unwrap_or((amount, "0"));
        if fraction.len() > 9 {
            return None;
        }
        let whole = whole.parse::<i64>().ok()?.checked_mul(scale)?;
        let places = 10_i64.pow(u32::try_from(fraction.len()).ok()?);
        let fraction = i128::from(fraction.parse::<i64>().ok()?) * i128::from(scale);
        let fraction = i64::try_from(fraction / i128::from(places)).ok()?;
        nanoseconds = nanoseconds.checked_add(whole)?.checked_add(fraction)?;
        rest = tail;
    }
    Some(TimeDelta::nanoseconds(sign * nanoseconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_as_cel_writes_them() {
        for (text, milliseconds) in [
            ("1h30m", Some(5_400_000)),
            ("-1.5s", Some(-1500)),
            ("250ms", Some(250)),
            ("", None),
            ("-", None),
            ("5", None),
            ("s", None),
            ("1d", None),
            ("9999999999h", None),
        ] {
            let expected = milliseconds.map(TimeDelta::milliseconds);
            assert_eq!(duration(text), expected, "{text}");
        }
    }

    #[test]
    fn times_are_read_as_postgres_writes_them() {
        for text in [
            "2025-01-31T12:00:00Z",
            "2025-01-31T14:00:00.000+02:00",
            "2025-01-31T12:00:00",
            "2025-01-31 12:00:00.0",
        ] {
            let read = timestamp(text).map(|time| time.to_rfc3339());
            assert_eq!(read.as_deref(), Some("2025-01-31T12:00:00+00:00"), "{text}");
        }
        assert_eq!(timestamp("infinity"), None);
        assert!(timestamp("2025-01-31").is_some());
    }
}
