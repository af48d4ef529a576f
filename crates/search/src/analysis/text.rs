//! Text: words, and what counts as equal.

use std::borrow::Cow;
use std::fmt::Write as _;

use unicode_normalization::UnicodeNormalization as _;
use unicode_segmentation::UnicodeSegmentation as _;

/// Maximum length of a word in bytes; longer ones are cut, in documents as in queries.
pub(crate) const MAX_WORD_BYTES: usize = 255;

/// Maximum length of a text that words are taken from; what follows has none.
const MAX_TEXT_BYTES: usize = 256 * 1024;

/// Returns the beginning of a text, of at most so many bytes.
pub(crate) fn cut(text: &str, bytes: usize) -> &str {
    &text[..text.floor_char_boundary(bytes)]
}

/// Adds bytes as hexadecimal digits.
pub(crate) fn push_hex(text: &mut String, bytes: &[u8]) {
    for byte in bytes {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
    }
}

/// Folds a text, so that texts are equal that differ only in case, in how Unicode composes a character,
/// or in its compatible variants: `ﬁ` is `fi`, `ß` is `ss`. No control character stays.
pub(crate) fn fold(text: &str) -> Cow<'_, str> {
    let plain = |byte: u8| byte.is_ascii_graphic() || byte == b' ';
    if text.bytes().all(plain) {
        return if text.bytes().any(|byte| byte.is_ascii_uppercase()) {
            text.to_ascii_lowercase().into()
        } else {
            text.into()
        };
    }
    // One character at a time, so that no character depends on its neighbours: the last letter of a word
    // or of a prefix is as good as any other. By way of upper case, `ß` becomes `ss` and `ς` `σ`.
    let lower = text
        .nfkc()
        .flat_map(char::to_uppercase)
        .flat_map(char::to_lowercase);
    let folded: String = lower
        .nfkc()
        .filter_map(|one| match one {
            '\u{2019}' => Some('\''),
            one if one.is_whitespace() => Some(' '),
            one if one.is_control() => None,
            one => Some(one),
        })
        .collect();
    // The small letter of `İ` is an `i` with one more dot.
    folded.replace("i\u{307}", "i").into()
}

/// Returns the words of a text, folded, in order.
pub(crate) fn words(text: &str) -> Vec<String> {
    let folded = fold(cut(text, MAX_TEXT_BYTES));
    let mut words = Vec::new();
    for segment in folded.split_word_bounds() {
        words.extend(split(segment).map(|word| cut(word, MAX_WORD_BYTES).to_owned()));
    }
    words
}

/// Splits a segment further, as `customer_id` and `shop.orders` are two words each to those who look for
/// one of them; `3.14` is one.
fn split(segment: &str) -> impl Iterator<Item = &str> {
    let bytes = segment.as_bytes();
    let is_digit = |place: Option<usize>| {
        place
            .and_then(|place| bytes.get(place))
            .is_some_and(u8::is_ascii_digit)
    };
    let mut parts = Vec::new();
    let mut start = 0;
    for (place, byte) in bytes.iter().enumerate() {
        let between = match byte {
            b'_' => true,
            b'.' | b':' => !(is_digit(place.checked_sub(1)) && is_digit(Some(place + 1))),
            _ => false,
        };
        if between {
            parts.push(&segment[start..place]);
            start = place + 1;
        }
    }
    parts.push(&segment[start..]);
    parts
        .into_iter()
        .filter(|part| part.chars().any(is_of_a_word))
}

/// Letters, digits, and what is looked for like them: symbols and pictures. Never a separator.
fn is_of_a_word(one: char) -> bool {
    one.is_alphanumeric() || matches!(one, '\u{2190}'..='\u{2bff}' | '\u{1f000}'..='\u{1faff}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_folded_and_split() {
        let cases: [(&str, &[&str]); 14] = [
            ("Hello, World!", &["hello", "world"]),
            (
                "shop.orders customer_id",
                &["shop", "orders", "customer", "id"],
            ),
            ("ann@example.com", &["ann", "example", "com"]),
            ("3.14 1,000 -5", &["3.14", "1,000", "5"]),
            ("STRASSE Straße", &["strasse", "strasse"]),
            ("İstanbul ISPARTA", &["istanbul", "isparta"]),
            ("ΟΔΟΣ οδος οδοσ", &["οδοσ", "οδοσ", "οδοσ"]),
            ("cafe\u{301} café", &["café", "café"]),
            ("ﬁne Ｗｉｄｅ", &["fine", "wide"]),
            ("東京", &["東", "京"]),
            ("party 🎉!", &["party", "🎉"]),
            ("שלום עולם", &["שלום", "עולם"]),
            ("don't don’t", &["don't", "don't"]),
            ("a\u{0}b ¶ -- ''", &["ab"]),
        ];
        for (text, expected) in cases {
            assert_eq!(words(text), expected, "{text}");
        }
    }

    #[test]
    fn long_words_are_cut_at_a_character() {
        let words = words(&"é".repeat(300));
        assert_eq!(words, ["é".repeat(127)]);
    }
}
