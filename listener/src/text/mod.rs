//! Helpers for text.

pub(crate) mod hex;

pub(crate) use cel::names;

/// Removes control characters, and replaces line breaks by spaces. Call it before secrets are redacted, so
/// that none is split, and cut the text last, so that none is cut in half and missed.
pub(crate) fn on_one_line(text: &str) -> String {
    let letters = text.chars().filter_map(|letter| match letter {
        '\n' | '\r' | '\t' => Some(' '),
        letter if letter.is_control() => None,
        letter => Some(letter),
    });
    letters.collect()
}
