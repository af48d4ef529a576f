//! Queries as a `tsquery`.

use super::tsvector::quote;
use crate::analysis::number::{Pattern, patterns};
use crate::analysis::terms::Path;
use crate::query::{Query, TermRange};
use crate::request::Scope;

/// A term that no document has.
const NOWHERE: &str = "/nowhere";

/// Writes a query as Postgres reads a `tsquery`; nothing where it finds all documents. The scope is part
/// of it so that the index finds fewer; what holds it is a condition of its own.
pub(super) fn tsquery(query: &Query, scope: &Scope) -> Option<String> {
    if *query == Query::All {
        return None;
    }
    let mut text = String::new();
    quote(&mut text, &Path::field("listener").exact(&scope.listener));
    if let Some(tenant) = &scope.tenant {
        text.push('&');
        quote(&mut text, &Path::field("tenant").exact(tenant));
    }
    text.push('&');
    write(&mut text, query);
    Some(text)
}

fn write(text: &mut String, query: &Query) {
    match query {
        // Only a whole query is one of these.
        Query::All => quote(text, crate::analysis::terms::EVERY),
        Query::Nothing => quote(text, NOWHERE),
        Query::Term(term) => quote(text, term),
        Query::TermPrefix(prefix) | Query::WordPrefix(prefix) => {
            quote(text, prefix);
            text.push_str(":*");
        }
        Query::TermRange(range) => write_range(text, range),
        Query::Phrase(words) => {
            join(text, words, "<->", |text, word| quote(text, word));
        }
        Query::And(all) => join(text, all, "&", write),
        Query::Or(all) => join(text, all, "|", write),
        Query::Not(query) => {
            text.push_str("!(");
            write(text, query);
            text.push(')');
        }
    }
}

/// A `tsquery` knows no ranges: all terms that begin with one of a few texts are a range.
fn write_range(text: &mut String, range: &TermRange) {
    let patterns = patterns(end(range.from.as_ref()), end(range.to.as_ref()));
    if patterns.is_empty() {
        return quote(text, NOWHERE);
    }
    join(text, &patterns, "|", |text, pattern| match pattern {
        Pattern::Exactly(rest) => quote(text, &format!("{}{rest}", range.prefix)),
        Pattern::Beginning(rest) => {
            quote(text, &format!("{}{rest}", range.prefix));
            text.push_str(":*");
        }
    });
}

fn end(end: Option<&(String, bool)>) -> Option<(&str, bool)> {
    end.map(|(text, closed)| (text.as_str(), *closed))
}

fn join<T>(text: &mut String, all: &[T], between: &str, write: impl Fn(&mut String, &T)) {
    text.push('(');
    for (n, one) in all.iter().enumerate() {
        if n > 0 {
            text.push_str(between);
        }
        write(text, one);
    }
    text.push(')');
}
