//! The query of `search`, and what is said of one that is not valid.

use ::search::SearchError;
use unicode_width::UnicodeWidthStr;

use super::CliError;
use super::table::one_line;

/// Finds the events that no observer matched.
const NOT_MATCHED: &str = "NOT delivery:*";

/// Characters of a query before and after a place that is pointed at.
const AROUND: usize = 40;

/// A query as it was given.
pub(super) struct Query {
    text: String,
    /// Whether only events are asked for that no observer matched.
    not_matched: bool,
}

impl Query {
    pub(super) fn new(text: String, not_matched: bool) -> Self {
        let is_empty = text.trim().is_empty();
        Self {
            text: if is_empty { String::new() } else { text },
            not_matched,
        }
    }

    /// Whether there is text to find.
    pub(super) const fn has_text(&self) -> bool {
        !self.text.is_empty()
    }

    /// Whether the query for the index is text that was given and more.
    pub(super) const fn is_extended(&self) -> bool {
        self.has_text() && self.not_matched
    }

    /// Returns the query as it was given.
    pub(super) fn given(&self) -> Option<String> {
        self.has_text().then(|| self.text.clone())
    }

    /// Returns the query for the index.
    pub(super) fn whole(&self) -> Option<String> {
        match (self.given(), self.not_matched) {
            (given, false) => given,
            (None, true) => Some(NOT_MATCHED.to_owned()),
            (Some(given), true) => Some(format!("({given}) {NOT_MATCHED}")),
        }
    }

    /// Returns the error of a search; of a query with its place.
    pub(super) fn failed(&self, error: SearchError) -> CliError {
        match error {
            SearchError::Query { position, message } => {
                let pointed = pointed(&self.text, position);
                let error = SearchError::Query { position, message };
                CliError::Config(format!("{error}\n{pointed}"))
            }
            SearchError::Unavailable(_) => CliError::Run(anyhow::anyhow!(
                "{error}; `events list --log` shows what the change log still holds"
            )),
            error => error.into(),
        }
    }
}

/// Returns the part of a query around a place, with a mark below it.
fn pointed(query: &str, position: usize) -> String {
    let characters: Vec<char> = one_line(query).chars().collect();
    let start = position.saturating_sub(AROUND).min(characters.len());
    let end = characters.len().min(position.saturating_add(AROUND));
    let part = |from: usize, to: usize| -> String {
        characters.get(from..to).into_iter().flatten().collect()
    };
    let before = part(start, position.min(end));
    let (cut, more) = (
        if start > 0 { "…" } else { "" },
        if end < characters.len() { "…" } else { "" },
    );
    let indent = " ".repeat(cut.width() + before.width());
    format!(
        "  {cut}{before}{}{more}\n  {indent}^",
        part(position.min(end), end)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn place_in_a_query_is_pointed_at() {
        assert_eq!(
            pointed("new.total:>abc", 11),
            "  new.total:>abc\n             ^"
        );
        assert_eq!(pointed("注文 (x", 3), "  注文 (x\n       ^");
        assert_eq!(pointed("a (", 9), "  a (\n     ^");
        assert_eq!(pointed("", 0), "  \n  ^");
        let long = format!("{}!{}", "a".repeat(100), "b".repeat(100));
        let shown = pointed(&long, 100);
        let (line, mark) = shown.split_once('\n').unwrap_or_default();
        assert_eq!(line, format!("  …{}!{}…", "a".repeat(40), "b".repeat(39)));
        assert_eq!(mark, format!("{}^", " ".repeat(43)));
    }

    #[test]
    fn not_matched_is_a_part_of_the_query() {
        let whole = |text: &str, not_matched| Query::new(text.to_owned(), not_matched).whole();
        assert_eq!(whole(" ", false), None);
        assert_eq!(whole("a", false).as_deref(), Some("a"));
        assert_eq!(whole("", true).as_deref(), Some("NOT delivery:*"));
        assert_eq!(
            whole("a OR b", true).as_deref(),
            Some("(a OR b) NOT delivery:*")
        );
    }
}
