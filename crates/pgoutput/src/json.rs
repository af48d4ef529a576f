//! Values as JSON.

use super::literal::{self, Element};
use super::types::JsonType;

/// A value that its type does not write.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a value is not written as its type writes it: the type may have changed since")]
pub struct JsonError;

/// Appends a value to JSON text, as `row_to_json` would write it.
pub fn write_value(out: &mut String, kind: &JsonType, text: &str) -> Result<(), JsonError> {
    match kind {
        JsonType::Boolean => out.push_str(match text {
            "t" => "true",
            "f" => "false",
            _ => return Err(JsonError),
        }),
        JsonType::Number if is_number(text) => out.push_str(text),
        JsonType::Number | JsonType::Text => write_string(out, text),
        JsonType::Timestamp => write_string(out, &text.replacen(' ', "T", 1)),
        JsonType::TimestampTz => write_string(out, &timestamptz(text)),
        JsonType::Json => out.push_str(text),
        JsonType::Array(element, delimiter) => {
            let elements = literal::array(text, *delimiter).ok_or(JsonError)?;
            write_elements(out, element, &elements)?;
        }
        JsonType::Vector(element) => {
            out.push('[');
            for (number, text) in text.split_ascii_whitespace().enumerate() {
                separate(out, number);
                write_value(out, element, text)?;
            }
            out.push(']');
        }
        JsonType::Composite(fields) => write_row(out, fields, text)?,
    }
    Ok(())
}

fn write_elements(
    out: &mut String,
    kind: &JsonType,
    elements: &[Element],
) -> Result<(), JsonError> {
    out.push('[');
    for (number, element) in elements.iter().enumerate() {
        separate(out, number);
        match element {
            Element::Null => out.push_str("null"),
            Element::Text(text) => write_value(out, kind, text)?,
            Element::Nested(inner) => write_elements(out, kind, inner)?,
        }
    }
    out.push(']');
    Ok(())
}

fn write_row(out: &mut String, fields: &[(String, JsonType)], text: &str) -> Result<(), JsonError> {
    let values = if fields.is_empty() && text == "()" {
        Vec::new()
    } else {
        literal::row(text).ok_or(JsonError)?
    };
    if values.len() != fields.len() {
        return Err(JsonError);
    }
    out.push('{');
    for (number, ((name, kind), value)) in fields.iter().zip(&values).enumerate() {
        separate(out, number);
        write_string(out, name);
        out.push(':');
        match value {
            None => out.push_str("null"),
            Some(text) => write_value(out, kind, text)?,
        }
    }
    out.push('}');
    Ok(())
}

fn separate(out: &mut String, number: usize) {
    if number > 0 {
        out.push(',');
    }
}

/// `2024-01-02 03:04:05+00` as `2024-01-02T03:04:05+00:00`; with ` BC` after it, if so.
fn timestamptz(text: &str) -> String {
    let text = text.replacen(' ', "T", 1);
    match text.split_once("+00") {
        Some((time, rest)) if rest.is_empty() || rest == " BC" => format!("{time}+00:00{rest}"),
        _ => text,
    }
}

/// As Postgres' `escape_json`.
pub(crate) fn write_string(out: &mut String, text: &str) {
    out.push('"');
    let mut from = 0;
    for (at, byte) in text.bytes().enumerate() {
        let escape = match byte {
            b'"' => "\\\"",
            b'\\' => "\\\\",
            0x08 => "\\b",
            0x0c => "\\f",
            b'\n' => "\\n",
            b'\r' => "\\r",
            b'\t' => "\\t",
            0..0x20 => "",
            _ => continue,
        };
        out.push_str(&text[from..at]);
        from = at + 1;
        if escape.is_empty() {
            const DIGITS: [char; 16] = [
                '0', '1', '2', '3', '4', '5', '6', '7', '8', '9', 'a', 'b', 'c', 'd', 'e', 'f',
            ];
            out.push_str("\\u00");
            out.push(DIGITS[usize::from(byte >> 4)]);
            out.push(DIGITS[usize::from(byte & 15)]);
        } else {
            out.push_str(escape);
        }
    }
    out.push_str(&text[from..]);
    out.push('"');
}

/// Whether a text is a number of JSON.
fn is_number(text: &str) -> bool {
    let mut rest = text.strip_prefix('-').unwrap_or(text).as_bytes();
    let digits = |rest: &mut &[u8]| {
        let count = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
        let begins_with_zero = rest.first() == Some(&b'0');
        *rest = &rest[count..];
        (count, begins_with_zero)
    };
    let (count, zero) = digits(&mut rest);
    if count == 0 || zero && count > 1 {
        return false;
    }
    if let Some(after) = rest.strip_prefix(b".") {
        rest = after;
        if digits(&mut rest).0 == 0 {
            return false;
        }
    }
    if let Some(after) = rest.strip_prefix(b"e").or_else(|| rest.strip_prefix(b"E")) {
        rest = after
            .strip_prefix(b"+")
            .or_else(|| after.strip_prefix(b"-"))
            .unwrap_or(after);
        if digits(&mut rest).0 == 0 {
            return false;
        }
    }
    rest.is_empty()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]

    use super::*;

    fn json(kind: &JsonType, text: &str) -> String {
        let mut out = String::new();
        write_value(&mut out, kind, text).unwrap();
        out
    }

    #[test]
    fn values_are_written_as_row_to_json_does() {
        for (kind, text, expected) in [
            (JsonType::Boolean, "t", "true"),
            (JsonType::Number, "-1.50e+10", "-1.50e+10"),
            (JsonType::Number, "NaN", "\"NaN\""),
            (JsonType::Number, "-Infinity", "\"-Infinity\""),
            (JsonType::Text, "a\"\u{1}\n\\é", "\"a\\\"\\u0001\\n\\\\é\""),
            (
                JsonType::Timestamp,
                "2024-01-02 03:04:05.1",
                "\"2024-01-02T03:04:05.1\"",
            ),
            (JsonType::Timestamp, "infinity", "\"infinity\""),
            (
                JsonType::TimestampTz,
                "0044-03-15 12:00:00+00 BC",
                "\"0044-03-15T12:00:00+00:00 BC\"",
            ),
            (JsonType::Json, "{\"a\" : 1e400}", "{\"a\" : 1e400}"),
            (
                JsonType::Array(Box::new(JsonType::Number), ','),
                "[0:1][1:2]={{1,2},{NULL,4}}",
                "[[1,2],[null,4]]",
            ),
            (JsonType::Vector(Box::new(JsonType::Number)), "1 2", "[1,2]"),
            (
                JsonType::Composite(vec![
                    ("a".to_owned(), JsonType::Number),
                    ("b".to_owned(), JsonType::Text),
                ]),
                "(1,\"x,y\")",
                "{\"a\":1,\"b\":\"x,y\"}",
            ),
        ] {
            assert_eq!(json(&kind, text), expected);
        }
    }

    #[test]
    fn numbers_are_those_of_json() {
        for number in ["0", "-0", "10", "1.5", "1e5", "1E-5", "0.1"] {
            assert!(is_number(number), "{number}");
        }
        for other in ["", "-", "01", "1.", ".5", "1e", "NaN", "+1", "1 "] {
            assert!(!is_number(other), "{other}");
        }
    }
}
