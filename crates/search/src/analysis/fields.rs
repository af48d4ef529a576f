//! What an index stores of a document beside its text.

use std::collections::{BTreeSet, HashMap};
use std::ops::ControlFlow;

use super::json::Leaf;
use super::sections::{self, Section};
use super::terms::{self, EVERY, Path};
use super::{text, time};
use crate::document::Document;

/// Stands between the words of two fields, so that no phrase is found across them. No query has it.
pub(crate) const GAP: &str = "\u{b6}";

/// Value of the facet `outcome` of a document without a delivery.
pub(crate) const NOT_MATCHED: &str = "notMatched";

/// Maximum number of words, gaps included.
const MAX_WORDS: usize = 10_000;

/// Maximum length of all words together, in bytes.
const MAX_WORDS_BYTES: usize = 400_000;

/// Maximum number of places of the same word; Postgres keeps 255.
const MAX_PLACES: u32 = 250;

/// Maximum number of terms.
const MAX_TERMS: usize = 2_000;

/// Maximum length of all terms together, in bytes.
const MAX_TERMS_BYTES: usize = 300_000;

/// Maximum number of words of one value that are found in its field.
const MAX_WORDS_OF_VALUE: usize = 500;

/// Maximum number of observers that are counted by facet.
const MAX_OBSERVERS: usize = 200;

/// What an index stores of a document beside its text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct IndexedFields {
    /// Words in order, with [`GAP`] between those of different values. A phrase is found by their places,
    /// which count from 1.
    pub(crate) words: Vec<String>,
    /// Terms, sorted, each once. None is equal to a word.
    pub(crate) terms: Vec<String>,
    /// Observers that matched, sorted, each once.
    pub(crate) observers: Vec<String>,
    /// States of deliveries, sorted, each once; or `notMatched`.
    pub(crate) outcomes: Vec<String>,
    /// Whether some delivery is not over.
    pub(crate) unfinished: bool,
    /// When the event occurred, in microseconds since 1970.
    pub(crate) occurred_at_micros: i64,
}

impl IndexedFields {
    /// Computes what is stored of a document.
    pub(crate) fn of(document: &Document) -> Self {
        let matched = document
            .observers
            .iter()
            .filter(|one| one.not_matched.is_none());
        let observers: BTreeSet<&str> = matched.map(|one| one.observer.as_str()).collect();
        let deliveries = document.observers.iter().flat_map(|one| &one.deliveries);
        let mut outcomes: BTreeSet<&str> = deliveries.map(|one| one.state.as_str()).collect();
        if outcomes.is_empty() {
            outcomes.insert(NOT_MATCHED);
        }
        let mut collector = Collector::default();
        collector.add_exact(document);
        sections::visit(document, &mut |section| collector.add(&section));
        let (words, terms) = collector.finish();
        let owned = |all: BTreeSet<&str>, most| -> Vec<String> {
            let plain = |one: &str| one.chars().filter(|one| !one.is_control()).collect();
            all.into_iter().take(most).map(plain).collect()
        };
        Self {
            words,
            terms,
            observers: owned(observers, MAX_OBSERVERS),
            outcomes: owned(outcomes, usize::MAX),
            unfinished: document.is_unfinished(),
            occurred_at_micros: document.occurred_at.timestamp_micros(),
        }
    }
}

/// Collects words and terms within bounds.
#[derive(Default)]
struct Collector {
    words: Vec<String>,
    words_bytes: usize,
    places: HashMap<String, u32>,
    terms: BTreeSet<String>,
    terms_bytes: usize,
    /// Terms of words, added last: those of whole values come first where there are too many.
    word_terms: Vec<String>,
}

impl Collector {
    /// Adds the terms of filters and scopes.
    fn add_exact(&mut self, document: &Document) {
        self.add_term(EVERY.to_owned());
        self.add_term(Path::field("listener").exact(&document.listener));
        self.add_term(Path::field("entity").exact(&document.entity));
        self.add_term(Path::field("operation").exact(document.operation.as_str()));
        for (field, value) in [("key", &document.key), ("tenant", &document.tenant)] {
            if let Some(value) = value {
                self.add_term(Path::field(field).exact(value));
            }
        }
        for one in document
            .observers
            .iter()
            .filter(|one| one.not_matched.is_none())
        {
            let observer = Some(one.observer.as_str());
            self.add_term(terms::delivery(observer, None, None));
            for delivery in &one.deliveries {
                let (action, state) = (Some(delivery.action.as_str()), Some(delivery.state));
                for (observer, action, state) in [
                    (observer, action, None),
                    (observer, None, state),
                    (observer, action, state),
                    (None, action, None),
                    (None, None, state),
                    (None, action, state),
                ] {
                    self.add_term(terms::delivery(observer, action, state));
                }
            }
        }
    }

    /// Adds a value; tells to stop once nothing more fits.
    fn add(&mut self, section: &Section<'_>) -> ControlFlow<()> {
        let value = section.leaf.text();
        let is_text = matches!(section.leaf, Leaf::Text(_));
        let words = if section.full_text || is_text {
            text::words(value)
        } else {
            Vec::new()
        };
        if let Some(path) = &section.path {
            self.add_value(path, &section.leaf);
            // A single word that is the whole value is found as that.
            if is_text && !(words.len() == 1 && path.value(value) == path.value(&words[0])) {
                let room = MAX_TERMS.saturating_sub(self.word_terms.len());
                let some = words.iter().take(MAX_WORDS_OF_VALUE.min(room));
                self.word_terms.extend(some.map(|word| path.word(word)));
            }
        }
        if section.full_text {
            self.add_words(words);
        }
        if self.words.len() >= MAX_WORDS && self.terms.len() >= MAX_TERMS {
            return ControlFlow::Break(());
        }
        ControlFlow::Continue(())
    }

    fn add_value(&mut self, path: &Path, leaf: &Leaf<'_>) {
        if *leaf != Leaf::Null {
            self.add_term(path.exists());
        }
        match leaf {
            Leaf::Number(number) => {
                let term = path.number(number);
                self.add_term(term.unwrap_or_else(|| path.value(number)));
            }
            Leaf::Text(text) => {
                self.add_term(path.value(text));
                if let Some(time) = time::read(text) {
                    self.add_term(path.time(time.start));
                }
            }
            Leaf::Boolean(_) | Leaf::Null => self.add_term(path.value(leaf.text())),
        }
    }

    fn add_term(&mut self, term: String) {
        let fits = self.terms.len() < MAX_TERMS && self.terms_bytes + term.len() <= MAX_TERMS_BYTES;
        if fits {
            let bytes = term.len();
            if self.terms.insert(term) {
                self.terms_bytes += bytes;
            }
        }
    }

    fn add_words(&mut self, words: Vec<String>) {
        if !self.words.is_empty() && !words.is_empty() {
            self.add_word(GAP.to_owned());
        }
        for word in words {
            let places = self.places.entry(word.clone()).or_default();
            *places += 1;
            let word = if *places > MAX_PLACES {
                GAP.to_owned()
            } else {
                word
            };
            self.add_word(word);
        }
    }

    fn add_word(&mut self, word: String) {
        if self.words.len() < MAX_WORDS && self.words_bytes + word.len() <= MAX_WORDS_BYTES {
            self.words_bytes += word.len();
            self.words.push(word);
        }
    }

    fn finish(mut self) -> (Vec<String>, Vec<String>) {
        for term in std::mem::take(&mut self.word_terms) {
            self.add_term(term);
        }
        (self.words, self.terms.into_iter().collect())
    }
}
