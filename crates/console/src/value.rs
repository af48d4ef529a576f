//! Values of rows and of errors, as they are shown: exact, and never as anything but text.
//!
//! Text may hold anything: markup, control characters, marks that turn the direction of what follows, or many
//! megabytes. It is escaped, what cannot be seen is named, its direction ends with it, and it has a bound.

use chrono::{DateTime, SecondsFormat, Utc};
use maud::{Markup, html};
use serde_json::Value;

/// About the maximum number of bytes of a text in a page.
const MAX_TEXT: usize = 16 * 1024;

/// About the maximum number of bytes of a text in a cell of a list.
const MAX_CELL: usize = 200;

/// Returns text, in a direction of its own.
pub(crate) fn text(value: &str) -> Markup {
    bounded(value, MAX_TEXT)
}

/// Returns the beginning of a text, for a cell of a list.
pub(crate) fn cell(value: &str) -> Markup {
    bounded(value, MAX_CELL)
}

/// Returns a text that may be absent.
pub(crate) fn optional(value: Option<&str>) -> Markup {
    html! { @match value { Some(value) => { (cell(value)) } None => { span.none { "–" } } } }
}

fn bounded(value: &str, most: usize) -> Markup {
    let (shown, is_cut) = visible(value, most);
    html! {
        bdi { (shown) }
        @if is_cut { span.cut { "… (" (number(value.len() as u64)) " bytes in all)" } }
    }
}

/// Returns the beginning of a text with names for characters that cannot be seen, about `most` bytes of it, and
/// whether something is left out.
fn visible(value: &str, most: usize) -> (String, bool) {
    let mut characters = value.chars().peekable();
    let mut shown = String::with_capacity(value.len().min(most));
    while shown.len() < most {
        match characters.next() {
            None => break,
            Some(plain @ ('\n' | '\t')) => shown.push(plain),
            // As in Rust and JavaScript, so that they can be told from text.
            Some(hidden) if is_hidden(hidden) => shown.extend(hidden.escape_unicode()),
            Some(plain) => shown.push(plain),
        }
    }
    (shown, characters.peek().is_some())
}

/// Returns whether a character shows nothing, or changes how others are shown.
fn is_hidden(character: char) -> bool {
    character.is_control()
        || matches!(
            character,
            '\u{ad}' | '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}'
                | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}'
        )
}

/// Returns a number with commas between thousands.
pub(crate) fn number(number: u64) -> String {
    let digits = number.to_string();
    let mut grouped = String::with_capacity(digits.len() + digits.len() / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

/// Returns a time to the millisecond, in UTC.
pub(crate) fn time(at: DateTime<Utc>) -> Markup {
    let exact = at.to_rfc3339_opts(SecondsFormat::Micros, true);
    html! { time datetime=(exact) title=(exact) { (at.format("%Y-%m-%d %H:%M:%S%.3f")) } }
}

/// Returns a time that may be absent.
pub(crate) fn optional_time(at: Option<DateTime<Utc>>) -> Markup {
    html! { @match at { Some(at) => { (time(at)) } None => { span.none { "–" } } } }
}

/// Returns a length of time in words, as `3 min 20 s`.
pub(crate) fn duration(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{} min {} s", seconds / 60, seconds % 60),
        3600..86_400 => format!("{} h {} min", seconds / 3600, seconds % 3600 / 60),
        _ => format!("{} d {} h", seconds / 86_400, seconds % 86_400 / 3600),
    }
}

/// Returns JSON as text over several lines.
pub(crate) fn json(value: &Value) -> Markup {
    let pretty = serde_json::to_string_pretty(value).unwrap_or_else(|_| value.to_string());
    // What may be too long for its box is scrolled, with keys too.
    let is_long = pretty.len() > MAX_CELL;
    html! { pre tabindex=[is_long.then_some("0")] { code { (text(&pretty)) } } }
}

/// Returns one value of a row: text as it is, anything else as JSON.
pub(crate) fn field(value: &Value) -> Markup {
    match value {
        Value::Null => html! { span.none { "null" } },
        Value::String(own) => text(own),
        Value::Object(_) | Value::Array(_) => json(value),
        Value::Bool(_) | Value::Number(_) => html! { code { (text(&value.to_string())) } },
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json as value;

    use super::*;

    #[test]
    fn any_text_is_shown_as_text() {
        let shown = |text: &str| super::text(text).into_string();
        assert_eq!(
            shown("<script>alert(1)</script>"),
            "<bdi>&lt;script&gt;alert(1)&lt;/script&gt;</bdi>"
        );
        assert_eq!(
            shown("a\u{0}b\u{1b}[31m\r\n"),
            "<bdi>a\\u{0}b\\u{1b}[31m\\u{d}\n</bdi>"
        );
        assert_eq!(shown("\u{202e}gnp.exe"), "<bdi>\\u{202e}gnp.exe</bdi>");
        assert_eq!(shown("مرحبا"), "<bdi>مرحبا</bdi>");
        let long = "x".repeat(10 << 20);
        let cut = shown(&long);
        assert!(cut.len() < 17_000 && cut.ends_with("… (10,485,760 bytes in all)</span>"));
    }

    #[test]
    fn numbers_are_exact() {
        let all = [
            (0, "0"),
            (999, "999"),
            (1000, "1,000"),
            (u64::MAX, "18,446,744,073,709,551,615"),
        ];
        for (given, shown) in all {
            assert_eq!(number(given), shown);
        }
        let exact: Value = serde_json::from_str("12345678901234567890.10").unwrap_or_default();
        assert_eq!(
            field(&exact).into_string(),
            "<code><bdi>12345678901234567890.10</bdi></code>"
        );
        assert!(
            field(&value!({"a": "</pre>"}))
                .into_string()
                .contains("&lt;/pre&gt;")
        );
    }

    proptest! {
        #[test]
        fn nothing_leaves_its_place(given in any::<String>()) {
            let shown = text(&given).into_string();
            let inner = shown.strip_prefix("<bdi>").and_then(|rest| rest.strip_suffix("</bdi>"));
            let inner = inner.unwrap_or("<");
            let left = inner.contains(['<', '>', '"', '\u{202e}', '\u{0}']);
            prop_assert!(!left);
        }
    }
}
