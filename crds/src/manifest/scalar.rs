//! What a plain word of YAML stands for.
//!
//! It means here what it means to kubectl, which reads YAML 1.1 in places, so that one file
//! means the same everywhere. Where readers of YAML disagree about a number, it is refused.

use granit_parser::ScalarStyle;
use serde_json::{Number, Value};

/// Integers up to here are exact as a float too.
const MAX_EXACT: f64 = 9_007_199_254_740_992.0;

/// The notation that everybody reads alike.
const UNCLEAR: &str = "is a number to some readers of YAML and text to others; write a plain \
                       decimal number, or text in quotes";

/// What a scalar means to kubectl, or why that is not clear.
pub(crate) fn scalar(text: &str, style: ScalarStyle) -> Result<Value, &'static str> {
    if !matches!(style, ScalarStyle::Plain) {
        return Ok(Value::String(text.to_owned()));
    }
    Ok(match text {
        "" | "~" | "null" | "Null" | "NULL" => Value::Null,
        "true" | "True" | "TRUE" | "y" | "Y" | "yes" | "Yes" | "YES" | "on" | "On" | "ON" => {
            Value::Bool(true)
        }
        "false" | "False" | "FALSE" | "n" | "N" | "no" | "No" | "NO" | "off" | "Off" | "OFF" => {
            Value::Bool(false)
        }
        _ if is_unclear(text) => return Err(UNCLEAR),
        _ => number(text).map_or_else(|| Value::String(text.to_owned()), Value::Number),
    })
}

/// A number in the notation of JSON.
fn number(text: &str) -> Option<Number> {
    let number = text.parse::<Number>().ok()?;
    let whole = number.as_f64().filter(|float| {
        float.fract() == 0.0 && float.abs() <= MAX_EXACT && number.as_i64().is_none()
    });
    // `8.0` and `8e0` are the integer 8 to the API server.
    #[allow(clippy::cast_possible_truncation, reason = "whole and within bounds")]
    Some(whole.map_or(number, |float| Number::from(float as i64)))
}

/// Whether some reader takes the text for a number although JSON does not.
fn is_unclear(text: &str) -> bool {
    if text.parse::<Number>().is_ok() {
        return false;
    }
    let lower = text
        .trim_start_matches(['+', '-'])
        .replace('_', "")
        .to_ascii_lowercase();
    let radix = |prefix: &str, radix: u32| {
        lower
            .strip_prefix(prefix)
            .is_some_and(|rest| !rest.is_empty() && rest.chars().all(|c| c.is_digit(radix)))
    };
    let special = matches!(lower.as_str(), ".inf" | ".nan");
    let float = lower.contains(|c: char| c.is_ascii_digit()) && lower.parse::<f64>().is_ok();
    special || float || radix("0x", 16) || radix("0o", 8) || radix("0b", 2)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn plain_words_mean_what_they_mean_to_kubectl() {
        for (text, value) in [
            ("~", json!(null)),
            ("yes", json!(true)),
            ("off", json!(false)),
            ("8", json!(8)),
            ("-3", json!(-3)),
            ("8.0", json!(8)),
            ("1e3", json!(1000)),
            ("10.1.2.3", json!("10.1.2.3")),
            ("127.0.0.0/8", json!("127.0.0.0/8")),
            ("2026-01-31", json!("2026-01-31")),
            ("infinity", json!("infinity")),
            ("15s", json!("15s")),
            ("0xyz", json!("0xyz")),
        ] {
            assert_eq!(scalar(text, ScalarStyle::Plain), Ok(value), "{text}");
        }
    }

    #[test]
    fn quoted_text_is_text() {
        assert_eq!(scalar("yes", ScalarStyle::DoubleQuoted), Ok(json!("yes")));
        assert_eq!(scalar("010", ScalarStyle::SingleQuoted), Ok(json!("010")));
    }

    #[test]
    fn numbers_that_readers_disagree_on_are_refused() {
        for text in [
            "010", "0x1F", "0o17", "0b11", "1_000", "+1", ".5", "5.", ".inf", "-.NaN",
        ] {
            assert_eq!(scalar(text, ScalarStyle::Plain), Err(UNCLEAR), "{text}");
        }
    }
}
