//! Words and terms as a `tsvector`.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use crate::analysis::fields::{GAP, IndexedFields};

/// Writes words with their places and terms without, as Postgres reads a `tsvector`.
pub(super) fn tsvector(fields: &IndexedFields) -> String {
    let mut places: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    for (place, word) in fields.words.iter().enumerate() {
        if word != GAP {
            places.entry(word).or_default().push(place + 1);
        }
    }
    let mut text = String::new();
    for (word, places) in places {
        quote(&mut text, word);
        for (n, place) in places.iter().enumerate() {
            // Writing to a string cannot fail.
            let _ = write!(text, "{}{place}", if n == 0 { ':' } else { ',' });
        }
        text.push(' ');
    }
    for term in &fields.terms {
        quote(&mut text, term);
        text.push(' ');
    }
    text
}

/// Writes a lexeme in quotes, as Postgres reads it in a `tsvector` and in a `tsquery`.
pub(super) fn quote(text: &mut String, lexeme: &str) {
    text.push('\'');
    for one in lexeme.chars() {
        if matches!(one, '\'' | '\\') {
            text.push(one);
        }
        text.push(one);
    }
    text.push('\'');
}
