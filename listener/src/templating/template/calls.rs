//! Filters and tests that a template uses: the engine looks them up only when it gets there.

use minijinja::{Environment, ErrorKind};

use super::TemplateError;
use crate::text::names::did_you_mean;

/// Filters that are known by name for proposals; whether one exists the engine says.
const FILTERS: [&str; 40] = [
    "abs",
    "attr",
    "batch",
    "bool",
    "capitalize",
    "chain",
    "date",
    "default",
    "dictsort",
    "escape",
    "first",
    "float",
    "format",
    "groupby",
    "indent",
    "int",
    "items",
    "join",
    "last",
    "length",
    "list",
    "lower",
    "map",
    "max",
    "min",
    "money",
    "reject",
    "replace",
    "reverse",
    "round",
    "select",
    "slice",
    "sort",
    "string",
    "title",
    "tojson",
    "trim",
    "unique",
    "upper",
    "urlencode",
];

/// Tests that are known by name for proposals.
const TESTS: [&str; 14] = [
    "defined",
    "undefined",
    "none",
    "true",
    "false",
    "odd",
    "even",
    "number",
    "string",
    "mapping",
    "sequence",
    "in",
    "startingwith",
    "endingwith",
];

/// Use of a filter or a test.
struct FilterCall<'s> {
    is_filter: bool,
    name: &'s str,
    /// Byte of the template where the name begins.
    at: usize,
}

/// Rejects filters and tests that do not exist, so that a typo shows before the first event.
pub(crate) fn check(environment: &Environment<'_>, source: &str) -> Result<(), TemplateError> {
    let mut state = environment.empty_state();
    for call in calls(source) {
        let (unknown, what, known): (_, _, &[&str]) = if call.is_filter {
            let tried = state.apply_filter(call.name, &[]).err();
            let unknown = tried.is_some_and(|error| error.kind() == ErrorKind::UnknownFilter);
            (unknown, "filter", &FILTERS)
        } else {
            let tried = state.perform_test(call.name, &[]).err();
            let unknown = tried.is_some_and(|error| error.kind() == ErrorKind::UnknownTest);
            (unknown, "test", &TESTS)
        };
        if unknown {
            let near = did_you_mean(call.name, known.iter().copied());
            return Err(TemplateError::Call {
                line: 1 + source[..call.at].matches('\n').count(),
                what,
                name: call.name.to_owned(),
                remedy: near.map_or_else(String::new, |near| format!("; did you mean {near}?")),
            });
        }
    }
    Ok(())
}

/// What stands between `{{` and `}}` or `{%` and `%}`, as far as filters and tests go.
fn calls(source: &str) -> Vec<FilterCall<'_>> {
    let mut calls = Vec::new();
    let (mut at, mut before) = (0, "");
    let mut end: Option<&str> = None;
    while let Some(rest) = source.get(at..).filter(|rest| !rest.is_empty()) {
        let Some(close) = end else {
            let Some(open) = rest.find('{') else {
                break;
            };
            (at, before) = (at + open + 1, "");
            match rest.as_bytes().get(open + 1) {
                Some(b'{') => (at, end) = (at + 1, Some("}}")),
                Some(b'%') => (at, end) = (at + 1, Some("%}")),
                Some(b'#') => at += rest[open..].find("#}").unwrap_or(rest.len() - open),
                _ => {}
            }
            continue;
        };
        let first = rest.chars().next().unwrap_or_default();
        let taken = if rest.starts_with(close) {
            end = None;
            close.len()
        } else if matches!(first, '"' | '\'') {
            text(rest, first)
        } else if first.is_alphabetic() || first == '_' {
            let is_name = |c: char| c.is_alphanumeric() || c == '_';
            let length = rest.find(|c| !is_name(c)).unwrap_or(rest.len());
            let name = &rest[..length];
            let is_test = before == "is" && name != "not" || before == "is not";
            if before == "|" || is_test || before == "block filter" {
                let is_filter = !is_test;
                calls.push(FilterCall {
                    is_filter,
                    name,
                    at,
                });
            }
            before = match (before, name) {
                ("is", "not") => "is not",
                ("", "filter") if close == "%}" => "block filter",
                (_, "is") => "is",
                ("", "raw") if close == "%}" => {
                    // Nothing in it is looked at.
                    let raw = source.get(at..).and_then(|rest| rest.find("endraw"));
                    at += raw.unwrap_or(rest.len());
                    continue;
                }
                _ => "name",
            };
            at += length;
            continue;
        } else {
            first.len_utf8()
        };
        if first == '|' {
            before = "|";
        } else if !(first.is_whitespace() || before.is_empty() && matches!(first, '-' | '+')) {
            before = "other";
        }
        at += taken;
    }
    calls
}

/// The length of a text in quotes.
fn text(rest: &str, quote: char) -> usize {
    let mut escaped = false;
    for (at, c) in rest.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            c if c == quote => return at + 1,
            _ => {}
        }
    }
    rest.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(source: &str) -> String {
        let calls = calls(source);
        let names: Vec<&str> = calls.iter().map(|call| call.name).collect();
        names.join(" ")
    }

    #[test]
    fn filters_and_tests_are_found_where_they_are_some() {
        for (source, found) in [
            ("{{ new.a|money | date('%Y|x') }} | no", "money date"),
            (
                "{% if new.a is defined and b is not odd %}{{ '|x' }}",
                "defined odd",
            ),
            ("{%- filter upper -%}x|y{% endfilter %}", "upper"),
            ("{# a|b #}{{ a }}{ b|c }", ""),
            ("{% raw %}{{ a|b }}{% endraw %}{{ a|c }}", "c"),
            ("{{ a|map('b')|join(', ') }}", "map join"),
            ("{{ a", ""),
        ] {
            assert_eq!(names(source), found, "{source}");
        }
    }
}
