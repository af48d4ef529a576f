//! Numbers as bytes, in whose order they are.

use cel::number::Number;

/// Maximum number of digits that tell numbers apart.
const MAX_DIGITS: usize = 100;

/// The characters that an encoding may have at a place, in order.
const FIRST: &[u8] = b"nop";
const LETTERS: &[u8] = b"GHIJKLMNOPQRSTUVWXYbcdefghijklmnopqrst";
const DIGITS: &[u8] = b"0123456789~";

/// Encodes a number such that the order of bytes is that of the numbers, and equal numbers are equal: a
/// sign (`n`, `o` for zero, `p`), the place of the point as a letter for the number of its digits and
/// these, and the digits. Of negative ones all of this is the other way round. Nothing for what is not a
/// number, or one whose exponent has more than 18 digits.
pub(crate) fn encode(text: &str) -> Option<String> {
    let number = Number::parse(text)?;
    Some(encode_parts(
        number.is_negative(),
        number.digits(),
        number.magnitude(),
    ))
}

/// Encodes an integer.
pub(crate) fn encode_integer(integer: i64) -> String {
    // Every integer is a number.
    encode(&integer.to_string()).unwrap_or_default()
}

fn encode_parts(negative: bool, digits: &str, magnitude: i64) -> String {
    if digits.is_empty() {
        return "o".to_owned();
    }
    let place = magnitude.unsigned_abs().to_string();
    // A place has at most 19 digits.
    let length = u8::try_from(place.len()).unwrap_or(19);
    let mut code = if magnitude < 0 {
        let mut code = vec![b'Z' - length];
        code.extend(place.bytes().map(opposite));
        code
    } else {
        let mut code = vec![b'a' + length];
        code.extend(place.bytes());
        code
    };
    code.extend(digits.bytes().take(MAX_DIGITS));
    if negative {
        // With more digits it is further below: the end sorts after all digits.
        code = code.into_iter().map(opposite).collect();
        code.push(b'~');
    }
    let mut encoded = if negative { "n" } else { "p" }.to_owned();
    encoded.extend(code.into_iter().map(char::from));
    encoded
}

/// Turns the order of a character round.
const fn opposite(byte: u8) -> u8 {
    match byte {
        b'0'..=b'9' => b'0' + b'9' - byte,
        letter => b'A' + b'z' - letter,
    }
}

/// What stands for a set of encodings in an index that knows no ranges.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Pattern {
    /// This one.
    Exactly(String),
    /// All that begin with this.
    Beginning(String),
}

/// Returns patterns that together stand for the encodings between two, each of which is given with
/// whether it belongs to them.
pub(crate) fn patterns(from: Option<(&str, bool)>, to: Option<(&str, bool)>) -> Vec<Pattern> {
    let (from_text, to_text) = (from.map_or("", |one| one.0), to.map(|one| one.0));
    let mut patterns = Vec::new();
    // What both begin with, all between them begins with.
    let common = to_text.map_or(0, |to| {
        let same = from_text
            .bytes()
            .zip(to.bytes())
            .take_while(|(a, b)| a == b);
        same.count()
    });
    match (from, to) {
        (Some((from, closed)), Some((to, to_closed))) if from >= to => {
            if from == to && closed && to_closed {
                patterns.push(Pattern::Exactly(from.to_owned()));
            }
            return patterns;
        }
        (None, None) => return vec![Pattern::Beginning(String::new())],
        _ => {}
    }
    let from_bytes = from_text.as_bytes();
    if let Some((from, closed)) = from {
        if closed {
            patterns.push(Pattern::Exactly(from.to_owned()));
        }
        // Longer encodings that begin with `from`.
        if !to_text.is_some_and(|to| to.starts_with(from)) {
            let more = alphabet(from_bytes, from.len());
            patterns.extend(more.map(|one| beginning(from, from.len(), one)));
        }
        for place in (common + usize::from(to.is_some())..from.len()).rev() {
            let greater = alphabet(from_bytes, place).filter(|one| *one > from_bytes[place]);
            patterns.extend(greater.map(|one| beginning(from, place, one)));
        }
    }
    if let Some((to, closed)) = to {
        let to_bytes = to.as_bytes();
        let above = from_bytes.get(common).copied().unwrap_or(0);
        for place in common..to.len() {
            let least = if place == common { above } else { 0 };
            let between =
                alphabet(to_bytes, place).filter(|one| *one > least && *one < to_bytes[place]);
            patterns.extend(between.map(|one| beginning(to, place, one)));
            let begun = &to[..place];
            if place > common && from.is_none_or(|(from, _)| begun > from) {
                patterns.push(Pattern::Exactly(begun.to_owned()));
            }
        }
        if closed {
            patterns.push(Pattern::Exactly(to.to_owned()));
        }
    }
    patterns
}

fn beginning(text: &str, place: usize, then: u8) -> Pattern {
    let mut text = text[..place].to_owned();
    text.push(char::from(then));
    Pattern::Beginning(text)
}

/// The characters that may follow the first ones of an encoding.
fn alphabet(encoded: &[u8], place: usize) -> impl Iterator<Item = u8> {
    let characters = match place {
        0 => FIRST,
        1 if encoded[0] == b'o' => b"",
        1 => LETTERS,
        _ => DIGITS,
    };
    characters.iter().copied()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]

    use proptest::prelude::*;

    use super::*;

    fn matches(patterns: &[Pattern], encoded: &str) -> bool {
        patterns.iter().any(|one| match one {
            Pattern::Exactly(text) => text == encoded,
            Pattern::Beginning(text) => encoded.starts_with(text.as_str()),
        })
    }

    #[test]
    fn order_of_bytes_is_that_of_numbers() {
        let ordered = [
            "-1e1000000000",
            "-1e400",
            "-9007199254740993",
            "-9007199254740992",
            "-100.5",
            "-100",
            "-99",
            "-1.5",
            "-1",
            "-0.5",
            "-0.25",
            "-1e-400",
            "0",
            "1e-1000000000",
            "1e-400",
            "0.001",
            "0.0015",
            "0.1",
            "0.25",
            "1",
            "1.5",
            "2",
            "9.99",
            "10",
            "99",
            "100",
            "100.5",
            "9007199254740992",
            "9007199254740993",
            "1e400",
            "1e1000000000",
        ];
        let encoded: Vec<String> = ordered.iter().map(|one| encode(one).unwrap()).collect();
        assert!(encoded.is_sorted_by(|a, b| a < b), "{encoded:?}");
        for (a, b) in [
            ("0.10", "0.1"),
            ("-0", "0"),
            ("1e2", "100"),
            ("0.00", "0e5"),
            ("+7", "007"),
        ] {
            assert_eq!(encode(a), encode(b));
        }
        for other in [
            "",
            "x",
            "1x",
            "--1",
            "1e99999999999999999999",
            "NaN",
            ".",
            "٣",
        ] {
            assert_eq!(encode(other), None, "{other}");
        }
        for (n, from) in encoded.iter().enumerate() {
            for (m, to) in encoded.iter().enumerate() {
                for (closed, to_closed) in
                    [(false, false), (false, true), (true, false), (true, true)]
                {
                    let patterns = patterns(Some((from, closed)), Some((to, to_closed)));
                    for (k, one) in encoded.iter().enumerate() {
                        let within =
                            (k > n || (closed && k == n)) && (k < m || (to_closed && k == m));
                        let said = matches(&patterns, one);
                        assert_eq!(
                            said, within,
                            "{from} {closed} {to} {to_closed} {one}: {patterns:?}"
                        );
                    }
                }
            }
        }
    }

    fn number() -> impl Strategy<Value = String> {
        prop_oneof![
            "-?[0-9]{1,5}(\\.[0-9]{1,4})?",
            "-?[0-9]{1,25}(\\.[0-9]{1,30})?",
            "-?[0-9]\\.[0-9]{1,3}e-?[0-9]{1,5}",
        ]
    }

    proptest! {
        #[test]
        fn ranges_hold_what_lies_between(a in number(), b in number(), c in number(), closed in any::<bool>(),
                to_closed in any::<bool>(), open in 0..3) {
            let compare = |a: &str, b: &str| {
                let (a, b) = (Number::parse(a).unwrap(), Number::parse(b).unwrap());
                a.cmp(&b)
            };
            let (a_code, b_code, c_code) = (encode(&a).unwrap(), encode(&b).unwrap(), encode(&c).unwrap());
            prop_assert_eq!(a_code.cmp(&b_code), compare(&a, &b));
            let from = (open != 1).then_some((a_code.as_str(), closed));
            let to = (open != 2).then_some((b_code.as_str(), to_closed));
            let within = from.is_none_or(|_| compare(&c, &a).is_gt() || (closed && compare(&c, &a).is_eq()))
                && to.is_none_or(|_| compare(&c, &b).is_lt() || (to_closed && compare(&c, &b).is_eq()));
            prop_assert_eq!(matches(&patterns(from, to), &c_code), within);
        }
    }
}
