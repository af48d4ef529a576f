//! SQL functions that users call, from the comments that the schema has on them.

use std::fs;

use anyhow::Context;

use crate::root;

/// Functions for users, by what they are for.
const FUNCTIONS: [(&str, &str, &[&str]); 5] = [
    (
        "Tracking tables",
        "See [Track tables](../how-to/track-tables.md).",
        &["track", "untrack"],
    ),
    (
        "Custom events",
        "See [Custom events](../how-to/track-tables.md#custom-events).",
        &["emit", "log_event", "restrict_emit", "unrestrict_emit"],
    ),
    ("Traces", "See [Traces](../how-to/traces.md).", &["trace"]),
    (
        "Exactly-once effects",
        "See [Postgres actions](../how-to/actions.md#postgres).",
        &["claim_delivery"],
    ),
    (
        "Administration",
        "`observer-listener reset-position` and `drop-listener` call these and ask first. \
         See [Restore a backup](../how-to/restore.md).",
        &["reset_position", "drop_listener"],
    ),
];

/// Writes the page.
pub(crate) fn body() -> anyhow::Result<String> {
    let folder = root().join("migrations/functions");
    let mut files: Vec<_> = fs::read_dir(&folder)?.collect::<Result<_, _>>()?;
    files.sort_by_key(fs::DirEntry::path);
    let mut source = String::new();
    for file in files {
        source.push_str(&fs::read_to_string(file.path())?);
    }
    let mut text =
        "The functions of the schema `observer` that users call. All other functions of the \
        schema are internal and change without notice. `\\df+ observer.*` in `psql` shows the same \
        comments.\n\n"
            .to_owned();
    for (title, more, names) in FUNCTIONS {
        text.push_str(&format!("## {title}\n\n{more}\n\n"));
        for name in names {
            let signatures = signatures(&source, name);
            anyhow::ensure!(!signatures.is_empty(), "no file defines observer.{name}");
            let comment = comment(&source, name)
                .with_context(|| format!("observer.{name} has no comment"))?;
            text.push_str(&format!(
                "### observer.{name}\n\n```sql\n{}\n```\n\n{comment}\n\n",
                signatures.join("\n")
            ));
        }
    }
    let tracked =
        comment(&source, "tracked").context("the view observer.tracked has no comment")?;
    text.push_str(&format!("## Views\n\n### observer.tracked\n\n{tracked}\n"));
    Ok(text)
}

/// Signatures of all functions of a name.
fn signatures(source: &str, name: &str) -> Vec<String> {
    let start = format!("create or replace function observer.{name}(");
    source
        .match_indices(&start)
        .filter_map(|(at, found)| {
            let rest = &source[at + found.len()..];
            let signature = &rest[..rest.find("\nlanguage")?];
            let words: Vec<&str> = signature.split_whitespace().collect();
            Some(
                format!("observer.{name}({}", words.join(" "))
                    .replace("( ", "(")
                    .replace(" )", ")"),
            )
        })
        .collect()
}

/// The comment on a function or view. It may stand in a statement that is itself quoted.
fn comment(source: &str, name: &str) -> Option<String> {
    let (_, rest) = ["function", "view"].iter().find_map(|kind| {
        let start = format!("comment on {kind} observer.{name}");
        let found = source
            .match_indices(&start)
            .find(|(at, _)| source[at + start.len()..].starts_with([' ', '(', '\n']));
        found.map(|(at, _)| (kind, &source[at..]))
    })?;
    let rest = rest[rest.find('\'')?..].trim_start_matches(|char: char| char.is_whitespace());
    let text = if let Some(quoted) = rest.strip_prefix("''") {
        quoted[..quoted.find("''")?].to_owned()
    } else {
        unquoted(&rest[1..])
    };
    Some(text.split_whitespace().collect::<Vec<_>>().join(" "))
}

/// The text of a literal up to its closing quote.
fn unquoted(literal: &str) -> String {
    let mut text = String::new();
    let mut chars = literal.chars().peekable();
    while let Some(char) = chars.next() {
        match char {
            '\'' if chars.peek() == Some(&'\'') => {
                chars.next();
                text.push('\'');
            }
            '\'' => break,
            char => text.push(char),
        }
    }
    text
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;

    const SOURCE: &str = "create or replace function observer.f(
    a text, b json default null
) returns bigint
language sql
as $$ $$;
comment on function observer.f is
'Takes ''a'' and
b.';
execute format('comment on function observer.g(text, %s) is ''Takes it.''', x);";

    #[test]
    fn signatures_are_on_one_line() {
        assert_eq!(
            signatures(SOURCE, "f"),
            ["observer.f(a text, b json default null) returns bigint"]
        );
    }

    #[test]
    fn comments_are_unquoted() {
        assert_eq!(comment(SOURCE, "f").unwrap(), "Takes 'a' and b.");
        assert_eq!(comment(SOURCE, "g").unwrap(), "Takes it.");
        assert_eq!(comment(SOURCE, "h"), None);
    }
}
