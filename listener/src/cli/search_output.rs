//! What `search` prints.

use ::search::{Bucket, Document, Facets, Highlight, Hit, SearchPage};
use serde::Serialize;

use super::CliError;
use super::event_view::EventView;
use super::events::{EVENT_COLUMNS, row};
use super::output::{counted, say};
use super::table::{self, fitted, one_line};
use super::terminal::terminal;

/// Begins and ends what is found, on a terminal.
const FOUND: &str = "\x1b[1;33m";
const NOT_FOUND: &str = "\x1b[0m";

/// A page for programs, as the HTTP API returns it.
#[derive(Serialize)]
struct PageView<'a> {
    items: Vec<ItemView<'a>>,
    total: u64,
    /// Cursor of the next page, if there is one.
    next: Option<&'a str>,
    facets: Option<&'a Facets>,
}

#[derive(Serialize)]
struct ItemView<'a> {
    #[serde(flatten)]
    document: &'a Document,
    highlights: &'a [Highlight],
}

impl<'a> ItemView<'a> {
    fn new(hit: &'a Hit) -> Self {
        Self {
            document: &hit.document,
            highlights: &hit.highlights,
        }
    }
}

/// Prints a page for programs.
pub(super) fn as_json(page: &SearchPage) -> Result<(), CliError> {
    let view = PageView {
        items: page.hits.iter().map(ItemView::new).collect(),
        total: page.total,
        next: page.next.as_ref().map(|next| next.id.as_str()),
        facets: page.facets.as_ref(),
    };
    say!("{}", serde_json::to_string_pretty(&view)?)
}

/// Prints a hit for programs, on a line.
pub(super) fn as_json_line(hit: &Hit) -> Result<(), CliError> {
    say!("{}", serde_json::to_string(&ItemView::new(hit))?)
}

/// Prints a page for people: each event, and below it where the text of the query is found.
pub(super) fn as_table(page: &SearchPage, has_outcomes: bool) -> Result<(), CliError> {
    let rows: Vec<[String; 6]> = page
        .hits
        .iter()
        .map(|hit| row(&EventView::of_document(&hit.document, has_outcomes)))
        .collect();
    let lines = table::formatted(EVENT_COLUMNS, &rows);
    let highlights = std::iter::once(&[][..]).chain(page.hits.iter().map(|hit| &*hit.highlights));
    let colour = terminal().colour;
    if !rows.is_empty() {
        for (line, highlights) in lines.iter().zip(highlights) {
            say!("{line}")?;
            for one in highlights {
                let line = fitted(format!(
                    "    {}: {}",
                    one_line(&one.field),
                    one_line(&one.text)
                ));
                say!("{}", if colour { coloured(&line) } else { line })?;
            }
        }
    }
    say!("{}", ending(page))?;
    match &page.facets {
        Some(facets) => print_facets(facets),
        None => Ok(()),
    }
}

/// Says how many events match, and how to see the others.
fn ending(page: &SearchPage) -> String {
    let shown = u64::try_from(page.hits.len()).unwrap_or(u64::MAX);
    match &page.next {
        _ if shown == 0 && page.total != 1 => format!("{} events match", page.total),
        Some(next) => format!(
            "{shown} of {} that match; --cursor {} continues after these, --all shows all",
            counted(page.total, "event", "events"),
            next.id
        ),
        None if shown < page.total => format!(
            "{shown} of {} that match",
            counted(page.total, "event", "events")
        ),
        None if page.total == 1 => "1 event matches".to_owned(),
        None => format!("{} events match", page.total),
    }
}

fn print_facets(facets: &Facets) -> Result<(), CliError> {
    let every = format!("time, each {}", interval(facets.interval_seconds));
    let all: [(&str, &[Bucket]); 5] = [
        ("entity", &facets.entity),
        ("operation", &facets.operation),
        ("observer", &facets.observer),
        ("outcome", &facets.outcome),
        (&every, &facets.time),
    ];
    let rows = all.iter().flat_map(|(facet, buckets)| {
        buckets.iter().map(|bucket| {
            [
                (*facet).to_owned(),
                one_line(&bucket.value),
                bucket.count.to_string(),
            ]
        })
    });
    let rows: Vec<[String; 3]> = rows.collect();
    say!("")?;
    table::print(["FACET", "VALUE", "EVENTS"], &rows)
}

/// Formats the length of an interval in the largest unit that it is a multiple of.
fn interval(seconds: u64) -> String {
    let units = [(86_400, "d"), (3600, "h"), (60, "m")];
    let unit = units
        .into_iter()
        .find(|(length, _)| seconds > 0 && seconds.is_multiple_of(*length));
    match unit {
        Some((length, unit)) => format!("{}{unit}", seconds / length),
        None => format!("{seconds}s"),
    }
}

/// Returns a line with colour in place of the marks.
fn coloured(line: &str) -> String {
    let mut text = line.replace('«', FOUND).replace('»', NOT_FOUND);
    // The end may be cut off.
    if text.rfind(FOUND) > text.rfind(NOT_FOUND) {
        text.push_str(NOT_FOUND);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_become_colour_that_ends() {
        assert_eq!(coloured("a «b» c"), "a \x1b[1;33mb\x1b[0m c");
        assert_eq!(coloured("a «bcd…"), "a \x1b[1;33mbcd…\x1b[0m");
        assert_eq!(coloured("plain"), "plain");
    }

    #[test]
    fn intervals_have_units() {
        assert_eq!(
            [1, 90, 600, 3600, 2_592_000, 0].map(interval),
            ["1s", "90s", "10m", "1h", "30d", "0s"]
        );
    }
}
