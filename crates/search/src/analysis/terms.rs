//! Terms: what a document has, each as a text that is compared byte by byte.
//!
//! All begin with a slash, which no word does, and with the path of a field; the character after it says
//! what they tell: nothing that the field is there, `=` its whole value, `:` a word of it, `#` a number,
//! `@` a time, and `~` its value as it is, not folded.

use sha2::{Digest as _, Sha256};

use super::number;
use super::text::{cut, fold, push_hex};
use crate::document::DeliveryState;

/// Maximum length of a term in bytes.
pub(crate) const MAX_TERM_BYTES: usize = 512;

/// Maximum length of a path in bytes; a field with a longer one is found by its words alone.
pub(crate) const MAX_PATH_BYTES: usize = 200;

/// Maximum number of names in a path.
pub(crate) const MAX_PATH_NAMES: usize = 8;

/// Length at which the beginning of a long value ends, and a digest follows.
const MAX_BEGINNING_BYTES: usize = MAX_TERM_BYTES - 40;

/// Maximum length of what of a value is compared; no query is longer.
const MAX_VALUE_BYTES: usize = 4096;

/// Term that every document has.
pub(crate) const EVERY: &str = "/";

/// Path of a field.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Path(String);

impl Path {
    /// Returns the path of these names, unless it is too long.
    pub(crate) fn of<'a>(names: impl IntoIterator<Item = &'a str>) -> Option<Self> {
        let mut path = "/".to_owned();
        for (place, name) in names.into_iter().enumerate() {
            if place == MAX_PATH_NAMES || path.len() + name.len() > MAX_PATH_BYTES {
                return None;
            }
            if place > 0 {
                path.push('.');
            }
            escape(&mut path, name);
        }
        (path.len() <= MAX_PATH_BYTES).then_some(Self(path))
    }

    /// Returns the path of a field with a plain name.
    pub(crate) fn field(name: &'static str) -> Self {
        Self(format!("/{name}"))
    }

    /// Returns the path as a query names it.
    pub(crate) fn name(&self) -> &str {
        &self.0[1..]
    }

    /// Term of a document that has the field, with a value.
    pub(crate) fn exists(&self) -> String {
        self.0.clone()
    }

    /// Term of a field with this whole value.
    pub(crate) fn value(&self, value: &str) -> String {
        let start = format!("{}=", self.0);
        bounded(start, &fold(cut(value, MAX_VALUE_BYTES)))
    }

    /// Beginning of the terms of a field whose whole value begins with this.
    pub(crate) fn value_beginning(&self, beginning: &str) -> String {
        let text = format!("{}={}", self.0, fold(beginning));
        cut(&text, MAX_BEGINNING_BYTES).to_owned()
    }

    /// Term of a field that holds this word, which is folded.
    pub(crate) fn word(&self, word: &str) -> String {
        format!("{}:{word}", self.0)
    }

    /// Term of a field with this number, if it is one.
    pub(crate) fn number(&self, number: &str) -> Option<String> {
        Some(format!("{}{}", self.numbers(), number::encode(number)?))
    }

    /// Beginning of the terms of a field with any number.
    pub(crate) fn numbers(&self) -> String {
        format!("{}#", self.0)
    }

    /// Term of a field with this time, in microseconds since 1970.
    pub(crate) fn time(&self, micros: i64) -> String {
        format!("{}{}", self.times(), number::encode_integer(micros))
    }

    /// Beginning of the terms of a field with any time.
    pub(crate) fn times(&self) -> String {
        format!("{}@", self.0)
    }

    /// Term of a field with exactly this value.
    pub(crate) fn exact(&self, value: &str) -> String {
        bounded(format!("{}~", self.0), value)
    }
}

/// Term of a document with a delivery of this observer and action in this state, any where absent.
pub(crate) fn delivery(
    observer: Option<&str>,
    action: Option<&str>,
    state: Option<DeliveryState>,
) -> String {
    let mut text = String::new();
    escape(&mut text, observer.unwrap_or_default());
    text.push('~');
    escape(&mut text, action.unwrap_or_default());
    text.push('~');
    text.push_str(state.map_or("", DeliveryState::as_str));
    bounded("/delivery~".to_owned(), &text)
}

fn escape(path: &mut String, name: &str) {
    for one in name.chars().filter(|one| !one.is_control()) {
        if matches!(one, '.' | '\\' | '=' | ':' | '#' | '@' | '~') {
            path.push('\\');
        }
        path.push(one);
    }
}

/// A long term is its beginning and a digest.
fn bounded(mut start: String, value: &str) -> String {
    let has_control = value.contains('\0');
    if start.len() + value.len() <= MAX_TERM_BYTES && !has_control {
        start.push_str(value);
        return start;
    }
    let digest = Sha256::digest(value.as_bytes());
    let room = MAX_BEGINNING_BYTES.saturating_sub(start.len());
    start.push_str(&cut(value, room).replace('\0', ""));
    start.push('\u{2026}');
    push_hex(&mut start, &digest[..16]);
    start
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]

    use super::*;

    #[test]
    fn paths_of_odd_names_are_told_apart() {
        let of = |names: &[&str]| Path::of(names.iter().copied()).unwrap();
        assert_eq!(of(&["new", "total"]).name(), "new.total");
        assert_eq!(of(&["new", "a.b"]).name(), "new.a\\.b");
        assert_ne!(of(&["new", "a.b"]), of(&["new", "a", "b"]));
        assert_ne!(of(&["new", "a\\", "b"]), of(&["new", "a\\.b"]));
        assert_ne!(of(&["new", "a=b"]).exists(), of(&["new", "a"]).value("b"));
        assert_eq!(Path::of(["new", &"x".repeat(300)]), None);
        assert_eq!(Path::of(vec!["n"; 9]), None);
    }

    #[test]
    fn long_values_are_told_apart_and_bounded() {
        let path = Path::field("key");
        let long = "é".repeat(600);
        let (one, other) = (
            path.value(&format!("{long}a")),
            path.value(&format!("{long}b")),
        );
        assert!(one != other && one.len() <= MAX_TERM_BYTES);
        assert!(one.starts_with(&path.value_beginning(&long)));
        assert!(path.exact(&"x".repeat(5000)).len() <= MAX_TERM_BYTES);
    }

    #[test]
    fn deliveries_of_odd_names_are_told_apart() {
        let names = ["a", "b", "a~b", "a\\", "", "~"];
        let mut all = Vec::new();
        for observer in names {
            for action in names {
                all.push(delivery(Some(observer), Some(action), None));
            }
        }
        let count = all.len();
        all.sort();
        all.dedup();
        assert_eq!(all.len(), count);
    }
}
