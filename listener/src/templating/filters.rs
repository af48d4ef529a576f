//! Filters that templates have beyond those of the engine: money, dates, and parts of URLs.
#![allow(
    clippy::needless_pass_by_value,
    reason = "the engine hands the arguments of filters over as values"
)]

use std::fmt::Write as _;

use chrono::format::{Item, StrftimeItems};
use chrono::{DateTime, FixedOffset, NaiveDate, NaiveDateTime, TimeZone, Utc};
use minijinja::value::{Kwargs, Value};
use minijinja::{Environment, Error, ErrorKind, State};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use super::exact_number::canonical;
use super::output;

/// Most decimals of an amount.
const MAX_DECIMALS: u32 = 12;

/// Most digits of an amount before the point.
const MAX_DIGITS: i64 = 60;

/// What may stand in a part of a URL as it is (RFC 3986, unreserved).
const UNRESERVED: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');

/// Adds the filters.
pub(crate) fn add(environment: &mut Environment<'_>) {
    environment.add_filter("money", money);
    environment.add_filter("date", date);
    environment.add_filter("urlencode", urlencode);
}

fn wrong(what: impl Into<String>) -> Error {
    Error::new(ErrorKind::InvalidOperation, what.into())
}

/// `{{ new.total|money }}`: 1,234.50. Exact, rounded half away from zero. `decimals` (2),
/// `thousands` (","), `point` (".").
fn money(state: &State, value: &Value, options: Kwargs) -> Result<String, Error> {
    let decimals = options.get::<Option<u32>>("decimals")?.unwrap_or(2);
    let thousands = options.get::<Option<String>>("thousands")?;
    let point = options.get::<Option<String>>("point")?;
    options.assert_all_used()?;
    if decimals > MAX_DECIMALS {
        return Err(wrong(format!("money has at most {MAX_DECIMALS} decimals")));
    }
    let text = match value.as_str() {
        Some(text) => text.trim().to_owned(),
        None => output::number(state, value)?,
    };
    let thousands = thousands.as_deref().unwrap_or(",");
    let point = point.as_deref().unwrap_or(".");
    amount(&text, decimals, thousands, point).ok_or_else(|| {
        wrong(format!(
            "{:?} is no amount",
            text.chars().take(40).collect::<String>()
        ))
    })
}

/// A decimal number's text, rounded and grouped; nothing where it is none, or too long.
fn amount(text: &str, decimals: u32, thousands: &str, point: &str) -> Option<String> {
    let number = text.strip_prefix('-').unwrap_or(text);
    let mut parts = number.splitn(2, ['e', 'E']);
    let mantissa = parts.next()?;
    let plain = mantissa
        .bytes()
        .all(|byte| byte.is_ascii_digit() || byte == b'.');
    let exponent = parts
        .next()
        .is_none_or(|exponent| exponent.parse::<i32>().is_ok());
    let digits = mantissa.bytes().any(|byte| byte.is_ascii_digit());
    if !plain || !exponent || !digits || mantissa.matches('.').count() > 1 {
        return None;
    }
    let (negative, digits, last) = canonical(text);
    let before_point = i64::try_from(digits.len()).ok()?.checked_add(last)?;
    if before_point > MAX_DIGITS {
        return None;
    }
    // In units of the last decimal.
    let shift = last.checked_add(i64::from(decimals))?;
    let (mut units, up) = if let Ok(zeros) = usize::try_from(shift) {
        (digits + &"0".repeat(zeros), false)
    } else {
        let dropped = usize::try_from(shift.unsigned_abs()).ok()?;
        let kept = digits.len().checked_sub(dropped);
        let half = |kept: usize| {
            digits
                .as_bytes()
                .get(kept)
                .is_some_and(|digit| *digit >= b'5')
        };
        let kept_digits = kept.map_or(String::new(), |kept| digits[..kept].to_owned());
        (kept_digits, kept.is_some_and(half))
    };
    if up {
        units = increased(&units);
    }
    let decimals = usize::try_from(decimals).ok()?;
    let units = format!("{units:0>width$}", width = decimals + 1);
    let (whole, fraction) = units.split_at(units.len() - decimals);
    let zero = units.bytes().all(|digit| digit == b'0');
    let mut out = String::new();
    if negative && !zero {
        out.push('-');
    }
    for (n, digit) in whole.chars().enumerate() {
        if n > 0 && (whole.len() - n).is_multiple_of(3) {
            out.push_str(thousands);
        }
        out.push(digit);
    }
    if decimals > 0 {
        out.push_str(point);
        out.push_str(fraction);
    }
    Some(out)
}

/// One more than a number given by its digits.
fn increased(digits: &str) -> String {
    let nines = digits
        .bytes()
        .rev()
        .take_while(|digit| *digit == b'9')
        .count();
    let (rest, _) = digits.split_at(digits.len() - nines);
    let zeros = "0".repeat(nines);
    match rest.bytes().last() {
        None => format!("1{zeros}"),
        Some(last) => format!("{}{}{zeros}", &rest[..rest.len() - 1], char::from(last + 1)),
    }
}

/// `{{ new.created_at|date("%d.%m.%Y %H:%M", "+02:00") }}`: a time as Postgres or RFC 3339 writes it,
/// in the words of strftime (`%Y-%m-%d`) and at an offset from UTC. One without an offset is UTC.
fn date(value: &Value, format: Option<String>, offset: Option<String>) -> Result<String, Error> {
    let format = format.as_deref().unwrap_or("%Y-%m-%d");
    let text = value.as_str().unwrap_or_default().trim();
    let time = moment(text).ok_or_else(|| {
        wrong(format!(
            "{:?} is no date; give one such as 2026-03-01T12:00:00Z",
            text.chars().take(40).collect::<String>()
        ))
    })?;
    let offset = match offset.as_deref().unwrap_or("UTC") {
        "UTC" | "Z" => FixedOffset::east_opt(0),
        offset => offset.parse().ok(),
    };
    let offset = offset.ok_or_else(|| {
        wrong("the second argument of date is an offset such as \"+02:00\" or \"UTC\"")
    })?;
    let items: Vec<Item<'_>> = StrftimeItems::new(format).collect();
    if items.contains(&Item::Error) {
        return Err(wrong(format!(
            "{format:?} is no format of a date; write it like %Y-%m-%d %H:%M"
        )));
    }
    let mut out = String::new();
    write!(
        out,
        "{}",
        time.with_timezone(&offset).format_with_items(items.iter())
    )
    .map_err(|_| wrong(format!("{format:?} asks for what a date does not have")))?;
    Ok(out)
}

fn moment(text: &str) -> Option<DateTime<Utc>> {
    if let Ok(time) = DateTime::parse_from_rfc3339(text) {
        return Some(time.to_utc());
    }
    if let Ok(time) = DateTime::parse_from_str(text, "%Y-%m-%d %H:%M:%S%.f%#z") {
        return Some(time.to_utc());
    }
    for format in ["%Y-%m-%dT%H:%M:%S%.f", "%Y-%m-%d %H:%M:%S%.f"] {
        if let Ok(time) = NaiveDateTime::parse_from_str(text, format) {
            return Some(Utc.from_utc_datetime(&time));
        }
    }
    let day = NaiveDate::parse_from_str(text, "%Y-%m-%d").ok()?;
    Some(Utc.from_utc_datetime(&day.and_hms_opt(0, 0, 0)?))
}

/// `{{ new.name|urlencode }}`: as a part of a URL's path or query.
fn urlencode(state: &State, value: &Value) -> Result<String, Error> {
    let text = match value.as_str() {
        Some(text) => text.to_owned(),
        None => output::number(state, value)?,
    };
    Ok(utf8_percent_encode(&text, UNRESERVED).to_string())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn amounts_are_exact_rounded_and_grouped() {
        for (text, expected) in [
            ("0", "0.00"),
            ("-0", "0.00"),
            ("1234.5", "1,234.50"),
            (
                "1234567890123456789012.345",
                "1,234,567,890,123,456,789,012.35",
            ),
            ("0.005", "0.01"),
            ("-0.005", "-0.01"),
            ("-0.004", "0.00"),
            ("999.995", "1,000.00"),
            ("1e3", "1,000.00"),
            ("12345e-3", "12.35"),
            ("1e-400", "0.00"),
        ] {
            assert_eq!(
                amount(text, 2, ",", ".").as_deref(),
                Some(expected),
                "{text}"
            );
        }
        assert_eq!(amount("1234567.5", 0, ".", ",").unwrap(), "1.234.568");
        assert_eq!(amount("1234.5", 3, "", ",").unwrap(), "1234,500");
        for text in [
            "",
            "-",
            ".",
            "x",
            "1e400",
            "1e99999999999",
            "1.2.3",
            "NaN",
            "1,0",
            "--1",
            "1e",
        ] {
            assert_eq!(amount(text, 2, ",", "."), None, "{text}");
        }
    }

    #[test]
    fn times_are_read_as_postgres_writes_them() {
        let at = |text: &str, format: &str, offset: &str| {
            date(&Value::from(text), Some(format.into()), Some(offset.into())).unwrap()
        };
        for (text, expected) in [
            ("2026-03-01T12:00:00Z", "01.03.2026 14:00"),
            ("2026-03-01T12:00:00.123456+02:00", "01.03.2026 12:00"),
            ("2026-03-01 23:30:00+00", "02.03.2026 01:30"),
            ("2026-03-01T12:00:00", "01.03.2026 14:00"),
            ("2026-03-01", "01.03.2026 02:00"),
        ] {
            assert_eq!(at(text, "%d.%m.%Y %H:%M", "+02:00"), expected, "{text}");
        }
        assert_eq!(
            date(&Value::from("2026-03-01"), None, None).unwrap(),
            "2026-03-01"
        );
        for (text, format, offset) in [
            ("yesterday", "%Y", "UTC"),
            ("2026-03-01", "%Q", "UTC"),
            ("2026-03-01", "%Y", "Europe/Berlin"),
            ("infinity", "%Y", "UTC"),
        ] {
            date(&Value::from(text), Some(format.into()), Some(offset.into())).unwrap_err();
        }
    }

    proptest! {
        #[test]
        fn an_amount_is_what_was_given_but_for_its_rounding(cents in -1_000_000_000_i64..1_000_000_000) {
            let text = format!("{}{}.{:02}", if cents < 0 { "-" } else { "" }, cents.abs() / 100, cents.abs() % 100);
            let plain = amount(&text, 2, "", ".").unwrap();
            let expected = if cents == 0 { "0.00".to_owned() } else { text };
            prop_assert_eq!(plain, expected);
        }
    }
}
