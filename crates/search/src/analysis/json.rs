//! The values in a JSON text, one after the other, however large and deep it is: no tree is made.

use std::borrow::Cow;
use std::ops::ControlFlow;

/// Maximum depth to which names are kept.
const MAX_NAMES: usize = 32;

/// A value that holds no others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Leaf<'a> {
    /// A text.
    Text(Cow<'a, str>),
    /// A number, as it is written.
    Number(Cow<'a, str>),
    /// `true` or `false`.
    Boolean(bool),
    /// `null`.
    Null,
}

impl Leaf<'_> {
    /// Returns it as a text.
    pub(crate) fn text(&self) -> &str {
        match self {
            Self::Text(text) | Self::Number(text) => text,
            Self::Boolean(true) => "true",
            Self::Boolean(false) => "false",
            Self::Null => "null",
        }
    }
}

/// Visits the leaves of a JSON text in order, each with the names that lead to it, until told to stop. The
/// members of a list have its names. A text that is not JSON has the leaves before the fault.
pub(crate) fn leaves<'a>(
    json: &'a str,
    mut visit: impl FnMut(&Names<'a>, Leaf<'a>) -> ControlFlow<()>,
) {
    let mut scanner = Scanner { json, place: 0 };
    let mut names = Names::default();
    // Whether each of the values around is an object.
    let mut around: Vec<bool> = Vec::new();
    let mut objects = 0;
    while let Some(byte) = scanner.next() {
        let leaf = match byte {
            b'{' | b'[' => {
                around.push(byte == b'{');
                objects += usize::from(byte == b'{');
                continue;
            }
            b'}' | b']' => {
                if around.pop() == Some(true) {
                    objects -= 1;
                    names.leave_to(objects);
                }
                continue;
            }
            b',' | b':' => continue,
            b'"' => {
                let text = scanner.text();
                // A name is followed by a colon.
                if around.last() == Some(&true) && scanner.peek() == Some(b':') {
                    names.enter(objects, text);
                    continue;
                }
                Leaf::Text(text)
            }
            b't' => Leaf::Boolean(scanner.word().starts_with('t')),
            b'f' => Leaf::Boolean(!scanner.word().starts_with('f')),
            b'n' => {
                scanner.word();
                Leaf::Null
            }
            _ => Leaf::Number(scanner.word().into()),
        };
        if visit(&names, leaf).is_break() {
            return;
        }
    }
}

/// Names that lead to a value.
#[derive(Debug, Default)]
pub(crate) struct Names<'a> {
    names: Vec<Cow<'a, str>>,
    /// Number of names; there may be more than are kept.
    depth: usize,
}

impl<'a> Names<'a> {
    /// Returns the names, unless there are too many.
    pub(crate) fn get(&self) -> Option<&[Cow<'a, str>]> {
        (self.depth == self.names.len()).then_some(&self.names)
    }

    /// Names a member of the object at a depth.
    fn enter(&mut self, depth: usize, name: Cow<'a, str>) {
        self.names.truncate(depth - 1);
        if depth <= MAX_NAMES {
            self.names.push(name);
        }
        self.depth = depth;
    }

    /// Leaves an object, so that this many are around.
    fn leave_to(&mut self, depth: usize) {
        self.depth = depth;
        self.names.truncate(depth);
    }
}

struct Scanner<'a> {
    json: &'a str,
    place: usize,
}

impl<'a> Scanner<'a> {
    /// Returns the next byte that is not white space, and the scanner stands behind it.
    fn next(&mut self) -> Option<u8> {
        let byte = self.peek()?;
        self.place += 1;
        Some(byte)
    }

    fn peek(&mut self) -> Option<u8> {
        let bytes = self.json.as_bytes();
        while bytes.get(self.place)?.is_ascii_whitespace() {
            self.place += 1;
        }
        bytes.get(self.place).copied()
    }

    /// Reads a text whose first quote is behind the scanner.
    fn text(&mut self) -> Cow<'a, str> {
        let bytes = self.json.as_bytes();
        let start = self.place;
        let mut escaped = false;
        while let Some(byte) = bytes.get(self.place) {
            match byte {
                b'"' => break,
                b'\\' => {
                    escaped = true;
                    self.place += 2;
                }
                _ => self.place += 1,
            }
        }
        let end = self.place.min(bytes.len());
        self.place = end + 1;
        let raw = self.json.get(start..end).unwrap_or_default();
        if escaped {
            unescape(raw).into()
        } else {
            raw.into()
        }
    }

    /// Reads what goes on until the value ends, from the byte before the scanner.
    fn word(&mut self) -> &'a str {
        let bytes = self.json.as_bytes();
        let start = self.place - 1;
        let ends =
            |byte: &u8| matches!(byte, b',' | b'}' | b']' | b':') || byte.is_ascii_whitespace();
        while bytes.get(self.place).is_some_and(|byte| !ends(byte)) {
            self.place += 1;
        }
        self.json.get(start..self.place).unwrap_or_default()
    }
}

/// Replaces escapes; half a surrogate pair stands for a character that is unknown.
fn unescape(raw: &str) -> String {
    let mut text = String::with_capacity(raw.len());
    let mut rest = raw;
    while let Some(place) = rest.find('\\') {
        text.push_str(&rest[..place]);
        rest = &rest[place + 1..];
        let Some(kind) = rest.chars().next() else {
            break;
        };
        rest = &rest[kind.len_utf8()..];
        match kind {
            'n' => text.push('\n'),
            't' => text.push('\t'),
            'r' => text.push('\r'),
            'b' => text.push('\u{8}'),
            'f' => text.push('\u{c}'),
            'u' => {
                let (one, used) = unicode(rest);
                text.push(one);
                rest = &rest[used..];
            }
            other => text.push(other),
        }
    }
    text.push_str(rest);
    text
}

/// Reads the digits of an escape, and those of the other half where it is half a pair. Returns the
/// character and the length that was read.
fn unicode(rest: &str) -> (char, usize) {
    let unit = |start: usize| {
        let digits = rest.get(start..start + 4)?;
        u32::from_str_radix(digits, 16).ok()
    };
    let Some(first) = unit(0) else {
        return (char::REPLACEMENT_CHARACTER, 0);
    };
    if let Some(one) = char::from_u32(first) {
        return (one, 4);
    }
    let second = if rest.get(4..6) == Some("\\u") {
        unit(6)
    } else {
        None
    };
    let pair = second.filter(|second| first < 0xdc00 && (0xdc00..0xe000).contains(second));
    let one = pair
        .and_then(|second| char::from_u32(0x10000 + ((first - 0xd800) << 10) + (second - 0xdc00)));
    one.map_or((char::REPLACEMENT_CHARACTER, 4), |one| (one, 10))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]

    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;

    fn all(json: &str) -> Vec<(String, String)> {
        let mut found = Vec::new();
        leaves(json, |names, leaf| {
            let names = names.get().map_or("…".to_owned(), |names| names.join("/"));
            found.push((names, leaf.text().to_owned()));
            ControlFlow::Continue(())
        });
        found
    }

    #[test]
    fn leaves_have_the_names_that_lead_to_them() {
        let json = r#"{"a": 1.50, "b": {"c": [true, {"d": null}, "x\"y\u00e9\ud83c\udf89\ud800z"], "e": {}},
            "f": [[1, 2], []], "": false, "g": -1e400}"#;
        let expected = [
            ("a", "1.50"),
            ("b/c", "true"),
            ("b/c/d", "null"),
            ("b/c", "x\"yé🎉\u{fffd}z"),
            ("f", "1"),
            ("f", "2"),
            ("", "false"),
            ("g", "-1e400"),
        ];
        let expected: Vec<_> = expected.map(|(a, b)| (a.to_owned(), b.to_owned())).into();
        assert_eq!(all(json), expected);
        assert_eq!(all("\"just\""), [(String::new(), "just".to_owned())]);
    }

    #[test]
    fn depth_is_no_danger() {
        let deep = format!("{}1{}", "{\"a\":[".repeat(100_000), "]}".repeat(100_000));
        assert_eq!(all(&deep), [("…".to_owned(), "1".to_owned())]);
    }

    fn tree() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<String>().prop_map(Value::from),
        ];
        leaf.prop_recursive(5, 40, 5, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
                prop::collection::vec((any::<String>(), inner), 0..5)
                    .prop_map(|all| Value::Object(all.into_iter().collect())),
            ]
        })
    }

    fn walk(value: &Value, names: &mut Vec<String>, found: &mut Vec<(String, String)>) {
        match value {
            Value::Array(all) => all.iter().for_each(|one| walk(one, names, found)),
            Value::Object(all) => {
                for (name, one) in all {
                    names.push(name.clone());
                    walk(one, names, found);
                    names.pop();
                }
            }
            Value::String(text) => found.push((names.join("/"), text.clone())),
            other => found.push((names.join("/"), other.to_string())),
        }
    }

    proptest! {
        #[test]
        fn leaves_are_those_of_the_tree(tree in tree(), pretty in any::<bool>()) {
            let mut expected = Vec::new();
            walk(&tree, &mut Vec::new(), &mut expected);
            let json = if pretty { serde_json::to_string_pretty(&tree) } else { serde_json::to_string(&tree) };
            prop_assert_eq!(all(&json.unwrap()), expected);
        }

        #[test]
        fn no_text_does_harm(text in any::<String>(), json in "[\\[\\]{}\",:\\\\u0-9a-f é]{0,60}") {
            all(&text);
            all(&json);
        }
    }
}
