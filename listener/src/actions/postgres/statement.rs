//! Statements that do not fit their parameters.

use std::borrow::Cow;
use std::collections::BTreeSet;

/// What is wrong between a statement and so many parameters.
pub(crate) fn wrong(statement: &str, parameters: usize) -> Option<String> {
    let used = used(statement);
    if let Some(beyond) = used.iter().find(|n| **n == 0 || **n > parameters) {
        let there = match parameters {
            0 => "there are no parameters".to_owned(),
            1 => "there is one parameter, $1".to_owned(),
            n => format!("there are the parameters $1 to ${n}"),
        };
        return Some(format!("uses ${beyond}, and {there}"));
    }
    let unused = (1..=parameters).find(|n| !used.contains(n))?;
    Some(format!(
        "does not use ${unused}, and has to use each parameter: leave the parameter out, or use it"
    ))
}

/// The numbers of the parameters that a statement uses.
fn used(statement: &str) -> BTreeSet<usize> {
    let tokens = Tokens::of(statement);
    tokens.filter_map(|(_, parameter)| parameter).collect()
}

/// Returns a statement with its parameters replaced, each by what `replacement` returns for its number.
pub(crate) fn with_parameters(statement: &str, replacement: impl Fn(usize) -> String) -> String {
    let tokens = Tokens::of(statement);
    tokens
        .map(|(text, parameter)| match parameter {
            Some(n) => Cow::Owned(replacement(n)),
            None => Cow::Borrowed(text),
        })
        .collect()
}

/// Iterator over the texts of a statement, each with the number of the parameter that it is, if it is one.
/// What is quoted or a comment is one text.
struct Tokens<'s> {
    rest: &'s str,
    before: char,
}

impl<'s> Tokens<'s> {
    const fn of(statement: &'s str) -> Self {
        Self {
            rest: statement,
            before: ' ',
        }
    }
}

impl<'s> Iterator for Tokens<'s> {
    type Item = (&'s str, Option<usize>);

    fn next(&mut self) -> Option<Self::Item> {
        let (rest, before) = (self.rest, self.before);
        let first = rest.chars().next()?;
        let after = rest[first.len_utf8()..].bytes();
        let digits = after.take_while(u8::is_ascii_digit).count();
        let mut parameter = None;
        let taken = if rest.starts_with("--") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            comment(rest)
        } else if first == '\'' {
            let backslash = matches!(before, 'e' | 'E');
            quoted(rest, '\'', backslash)
        } else if first == '"' {
            quoted(rest, '"', false)
        } else if first == '$' && !is_of_name(before) && digits > 0 {
            parameter = rest[1..=digits].parse().ok();
            1 + digits
        } else if first == '$' && !is_of_name(before) {
            dollars(rest).unwrap_or(1)
        } else {
            first.len_utf8()
        };
        let (text, rest) = rest.split_at(taken);
        self.before = text.chars().next_back().unwrap_or(' ');
        self.rest = rest;
        Some((text, parameter))
    }
}

fn is_of_name(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// The length of a comment, which may hold others.
fn comment(text: &str) -> usize {
    let (mut depth, mut at) = (0_usize, 0);
    while at < text.len() {
        match text.as_bytes().get(at..at + 2) {
            Some(b"/*") => (depth, at) = (depth + 1, at + 2),
            Some(b"*/") => {
                (depth, at) = (depth - 1, at + 2);
                if depth == 0 {
                    return at;
                }
            }
            _ => at += 1,
        }
    }
    text.len()
}

/// The length of what stands in quotes; two of them in a row are one of the text, which is no
/// different here.
fn quoted(text: &str, quote: char, backslash: bool) -> usize {
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        if escaped {
            escaped = false;
        } else if c == '\\' && backslash {
            escaped = true;
        } else if c == quote {
            return at + 1;
        }
    }
    text.len()
}

/// The length of a text in dollars, if one begins here.
fn dollars(text: &str) -> Option<usize> {
    let end = text[1..].find('$')? + 2;
    let tag = &text[..end];
    if !tag[1..end - 1].chars().all(is_of_name) {
        return None;
    }
    let close = text[end..].find(tag);
    Some(close.map_or(text.len(), |close| end + close + end))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_replaced_where_they_are_some() {
        let replaced = |statement| with_parameters(statement, |n| format!("<{n}>"));
        assert_eq!(
            replaced("select $1, '$2', $10::int /* $3 */ from a$2 -- $4\nwhere $$ $5 $$ = $1"),
            "select <1>, '$2', <10>::int /* $3 */ from a$2 -- $4\nwhere $$ $5 $$ = <1>"
        );
    }

    #[test]
    fn parameters_are_counted_where_they_are_some() {
        for (statement, parameters) in [
            ("select 1", 0),
            ("insert into a values ($1, $2, $1)", 2),
            ("select $1::text -- $2\n", 1),
            (
                "select $1, '$2', \"$3\", $$ $4 $$, $x$ $5 $ $x$ /* $6 /* */ $7 */",
                1,
            ),
            ("select e'\\'$2', $1", 1),
            ("select a$2, $1 from a$2", 1),
        ] {
            assert_eq!(wrong(statement, parameters), None, "{statement}");
        }
        for (statement, parameters, text) in [
            ("select $2", 1, "uses $2, and there is one parameter"),
            ("select $1", 0, "no parameters"),
            ("select $1", 2, "does not use $2"),
            ("select '' || $3", 2, "$1 to $2"),
        ] {
            let said = wrong(statement, parameters).unwrap_or_default();
            assert!(said.contains(text), "{statement}: {said}");
        }
    }
}
