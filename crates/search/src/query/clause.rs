//! Words and fields of a query, as terms.

use super::{Query, TermRange};
use crate::analysis::sections::FIELDS;
use crate::analysis::terms::Path;
use crate::analysis::text::words as words_of;
use crate::analysis::{number, time};

/// What is asked of a field.
#[derive(Clone, Debug)]
pub(crate) enum Clause {
    /// A value.
    Value {
        text: String,
        /// It is the whole value.
        quoted: bool,
        /// It is the beginning of a word or of the value.
        prefix: bool,
    },
    /// A number or a time between two, each with whether it belongs to them; open where absent.
    Range {
        from: Option<(String, bool)>,
        to: Option<(String, bool)>,
    },
}

/// Compiles text without a field; nothing where it has no words.
pub(crate) fn words(text: &str, quoted: bool, prefix: bool) -> Option<Query> {
    if text.is_empty() && prefix && !quoted {
        return Some(Query::All);
    }
    let mut words = words_of(text);
    if !prefix {
        return (!words.is_empty()).then_some(Query::Phrase(words));
    }
    let last = words.pop()?;
    let mut parts = Vec::new();
    if !words.is_empty() {
        parts.push(Query::Phrase(words));
    }
    parts.push(Query::WordPrefix(last));
    Some(Query::all_of(parts))
}

/// Compiles what is asked of a field, unless it is a hidden one. An error says what is wrong.
pub(crate) fn field(names: &[String], clause: Clause, hidden: &[&str]) -> Result<Query, String> {
    let Some(path) = path(names, hidden)? else {
        return Ok(Query::Nothing);
    };
    match clause {
        Clause::Value {
            text,
            quoted,
            prefix: true,
        } if !quoted => Ok(beginning(&path, &text)),
        Clause::Value { text, quoted, .. } => Ok(value(&path, &text, quoted)),
        Clause::Range { from, to } => range(&path, from, to),
    }
}

/// Path of a field; nothing where it is one that no document has terms of.
fn path(names: &[String], hidden: &[&str]) -> Result<Option<Path>, String> {
    let exists = |name: &&str| !hidden.contains(name);
    let known = match names {
        [name] => FIELDS
            .iter()
            .filter(|one| exists(one))
            .any(|one| one == name),
        [image, ..] => image == "new" || image == "old",
        [] => false,
    };
    if known {
        return Ok(Path::of(names.iter().map(String::as_str)));
    }
    let name: String = names.join(".").chars().take(60).collect();
    Err(match names {
        [image] if image == "new" || image == "old" => {
            format!("name a column, as in {image}.total")
        }
        _ => format!(
            "there is no field {name}: columns are new.{name} and old.{name}, other fields are {}; \
             put text with a colon in quotes",
            FIELDS
                .into_iter()
                .filter(exists)
                .collect::<Vec<_>>()
                .join(", ")
        ),
    })
}

fn value(path: &Path, text: &str, quoted: bool) -> Query {
    let mut any = vec![Query::Term(path.value(text))];
    any.extend(path.number(text).map(Query::Term));
    if !quoted {
        if let Some(time) = time::read(text) {
            any.push(Query::TermRange(TermRange {
                prefix: path.times(),
                from: Some((number::encode_integer(time.start), true)),
                to: Some((number::encode_integer(time.end), false)),
            }));
        }
        let words = words_of(text);
        if !words.is_empty() {
            let terms = words.iter().map(|word| Query::Term(path.word(word)));
            any.push(Query::all_of(terms.collect()));
        }
    }
    Query::any_of(any)
}

fn beginning(path: &Path, text: &str) -> Query {
    if text.is_empty() {
        return Query::Term(path.exists());
    }
    let mut any = vec![Query::TermPrefix(path.value_beginning(text))];
    let mut words = words_of(text);
    if let Some(last) = words.pop() {
        let mut all: Vec<Query> = words
            .iter()
            .map(|word| Query::Term(path.word(word)))
            .collect();
        all.push(Query::TermPrefix(path.word(&last)));
        any.push(Query::all_of(all));
    }
    Query::any_of(any)
}

/// A bound as it may be meant.
enum Bound {
    Number(String),
    /// From the beginning of what is named, such as a day, to its end.
    Time(String, String),
}

fn bound(text: &str) -> Result<Bound, String> {
    if let Some(time) = time::read(text) {
        let encode = number::encode_integer;
        return Ok(Bound::Time(encode(time.start), encode(time.end)));
    }
    number::encode(text).map(Bound::Number).ok_or_else(|| {
        "a range is one of numbers or of times, as in >100 and >=2026-03-01T12:00:00Z".to_owned()
    })
}

fn range(
    path: &Path,
    from: Option<(String, bool)>,
    to: Option<(String, bool)>,
) -> Result<Query, String> {
    let read = |end: Option<(String, bool)>| match end {
        Some((text, closed)) => bound(&text).map(|bound| Some((bound, closed))),
        None => Ok(None),
    };
    let (prefix, from, to) = match (read(from)?, read(to)?) {
        (None, None) => return Ok(Query::Term(path.exists())),
        (Some((Bound::Number(_), _)), Some((Bound::Time(..), _)))
        | (Some((Bound::Time(..), _)), Some((Bound::Number(_), _))) => {
            return Err("a range cannot be from a number to a time".to_owned());
        }
        (from, to) => {
            let is_time = [&from, &to]
                .into_iter()
                .flatten()
                .any(|(bound, _)| matches!(bound, Bound::Time(..)));
            let prefix = if is_time {
                path.times()
            } else {
                path.numbers()
            };
            let from = from.map(|(bound, closed)| match bound {
                Bound::Number(number) => (number, closed),
                // After a day is from the next one on.
                Bound::Time(start, end) => (if closed { start } else { end }, true),
            });
            let to = to.map(|(bound, closed)| match bound {
                Bound::Number(number) => (number, closed),
                Bound::Time(start, end) => (if closed { end } else { start }, false),
            });
            (prefix, from, to)
        }
    };
    Ok(Query::TermRange(TermRange { prefix, from, to }))
}
