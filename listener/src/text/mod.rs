//! Small things about text.

pub(crate) mod hex;

pub(crate) use cel::names;

/// The text without control characters. They go before secrets are looked for, so that none splits
/// one; the cut comes last, so that none is cut in half and missed.
pub(crate) fn on_one_line(text: &str) -> String {
    let letters = text.chars().filter_map(|letter| match letter {
        '\n' | '\r' | '\t' => Some(' '),
        letter if letter.is_control() => None,
        letter => Some(letter),
    });
    letters.collect()
}
