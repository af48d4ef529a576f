//! Highlights: where the text of a query is found in a document, computed from the document itself.

use std::ops::ControlFlow;

use unicode_segmentation::UnicodeSegmentation as _;

use crate::analysis::sections::{self, Section};
use crate::analysis::terms::Path;
use crate::analysis::text::{MAX_WORD_BYTES, cut, words};
use crate::document::Document;
use crate::query::Query;
use crate::request::Highlight;

/// Maximum number of fields.
const MAX_FIELDS: usize = 5;

/// Maximum length of a text in characters, without the marks.
const MAX_CHARACTERS: usize = 160;

/// Characters kept before the first match of a text that is cut.
const BEFORE: usize = 40;

/// Maximum length of a value that is looked at, in bytes.
const MAX_VALUE_BYTES: usize = 64 * 1024;

/// Returns where the text of a query is found in a document, by field.
pub(crate) fn highlights(document: &Document, query: &Query) -> Vec<Highlight> {
    let mut wanted = Wanted::default();
    wanted.add(query);
    let mut found: Vec<Highlight> = Vec::new();
    if wanted.is_empty() {
        return found;
    }
    sections::visit(document, &mut |section| {
        let Some(path) = &section.path else {
            return ControlFlow::Continue(());
        };
        let is_new = found.iter().all(|one| one.field != path.name());
        if let Some(text) = is_new.then(|| wanted.mark(path, &section)).flatten() {
            found.push(Highlight {
                field: path.name().to_owned(),
                text,
            });
        }
        if found.len() == MAX_FIELDS {
            return ControlFlow::Break(());
        }
        ControlFlow::Continue(())
    });
    found
}

/// What a document was found by.
#[derive(Default)]
struct Wanted<'q> {
    words: Vec<&'q str>,
    word_prefixes: Vec<&'q str>,
    terms: Vec<&'q str>,
    term_prefixes: Vec<&'q str>,
    ranges: Vec<&'q crate::query::TermRange>,
}

impl<'q> Wanted<'q> {
    /// Adds what a query wants to be there.
    fn add(&mut self, query: &'q Query) {
        match query {
            Query::All | Query::Nothing | Query::Not(_) => {}
            Query::Term(term) => self.terms.push(term),
            Query::TermPrefix(prefix) => self.term_prefixes.push(prefix),
            Query::TermRange(range) => self.ranges.push(range),
            Query::Phrase(words) => self.words.extend(words.iter().map(String::as_str)),
            Query::WordPrefix(prefix) => self.word_prefixes.push(prefix),
            Query::And(all) | Query::Or(all) => all.iter().for_each(|one| self.add(one)),
        }
    }

    fn is_empty(&self) -> bool {
        self.words.is_empty()
            && self.word_prefixes.is_empty()
            && self.terms.is_empty()
            && self.term_prefixes.is_empty()
            && self.ranges.is_empty()
    }

    /// Returns the text of a value with marks, if it has anything that is wanted.
    fn mark(&self, path: &Path, section: &Section<'_>) -> Option<String> {
        let text = cut(section.leaf.text(), MAX_VALUE_BYTES);
        if self.has_whole(path, section) {
            return Some(fragment(text, &[(0, text.len())]));
        }
        let has_word = |word: &str| {
            let word = cut(word, MAX_WORD_BYTES);
            let of_field = || path.word(word);
            (section.full_text
                && (self.words.contains(&word)
                    || self
                        .word_prefixes
                        .iter()
                        .any(|prefix| word.starts_with(prefix))))
                || ((!self.terms.is_empty() || !self.term_prefixes.is_empty())
                    && self.has_term(&of_field()))
        };
        let mut marks: Vec<(usize, usize)> = Vec::new();
        for (start, part) in parts(text) {
            if !words(part).iter().any(|word| has_word(word)) {
                continue;
            }
            let end = start + part.len();
            match marks.last_mut() {
                Some(last) if last.1 == start => last.1 = end,
                _ => marks.push((start, end)),
            }
        }
        (!marks.is_empty()).then(|| fragment(text, &marks))
    }

    fn has_term(&self, term: &str) -> bool {
        self.terms.contains(&term)
            || self
                .term_prefixes
                .iter()
                .any(|prefix| term.starts_with(prefix))
    }

    /// Whether the value as a whole is wanted.
    fn has_whole(&self, path: &Path, section: &Section<'_>) -> bool {
        let text = section.leaf.text();
        let is_of_a_field = self
            .terms
            .iter()
            .chain(&self.term_prefixes)
            .any(|term| term.starts_with(&path.exists()));
        if is_of_a_field && self.has_term(&path.value(text)) {
            return true;
        }
        let number = path.number(text);
        let time = crate::analysis::time::read(text).map(|time| path.time(time.start));
        [number, time].into_iter().flatten().any(|term| {
            self.terms.contains(&term.as_str()) || self.ranges.iter().any(|range| range.has(&term))
        })
    }
}

/// Splits a text into words and what is between them, as words are split that are indexed.
fn parts(text: &str) -> impl Iterator<Item = (usize, &str)> {
    text.split_word_bound_indices()
        .flat_map(|(start, segment)| {
            let mut place = start;
            segment.split_inclusive(['_', '.', ':']).map(move |part| {
                let start = place;
                place += part.len();
                (start, part.trim_end_matches(['_', '.', ':']))
            })
        })
}

/// Returns the text around the first mark, with all marks in it.
fn fragment(text: &str, marks: &[(usize, usize)]) -> String {
    let first = marks.first().map_or(0, |mark| mark.0);
    let whole = text.chars().nth(MAX_CHARACTERS).is_none();
    let start = if whole {
        0
    } else {
        let before = text[..first].char_indices().rev().nth(BEFORE - 1);
        before.map_or(0, |(place, _)| place)
    };
    let end = text[start..]
        .char_indices()
        .nth(MAX_CHARACTERS)
        .map_or(text.len(), |(place, _)| start + place);
    let mut marked = String::new();
    if start > 0 {
        marked.push('…');
    }
    let mut place = start;
    for (from, to) in marks
        .iter()
        .map(|mark| (mark.0.max(start), mark.1.min(end)))
    {
        if from >= to {
            continue;
        }
        marked.push_str(&text[place..from]);
        marked.push('«');
        marked.push_str(&text[from..to]);
        marked.push('»');
        place = to;
    }
    marked.push_str(&text[place..end]);
    if end < text.len() {
        marked.push('…');
    }
    marked
}
