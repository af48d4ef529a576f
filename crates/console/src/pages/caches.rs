//! Caches of lookups and actions.

use std::collections::BTreeMap;

use axum::response::Response;
use maud::{Markup, html};
use serde::Deserialize;

use crate::acts::{INVALIDATE, notice};
use crate::failure::Failure;
use crate::layout::Section;
use crate::params::Params;
use crate::value::{cell, number};
use crate::visit::Visit;

/// Caches, as `GET /cache` has them.
#[derive(Debug, Deserialize)]
pub(super) struct Caches {
    items: Vec<ProcessCache>,
}

#[derive(Debug, Deserialize)]
struct ProcessCache {
    process: String,
    stats: Stats,
}

#[derive(Debug, Deserialize)]
struct Stats {
    entries: u64,
    bytes: u64,
    served: BTreeMap<String, u64>,
}

impl Caches {
    /// Returns how many results are in the memory of all processes.
    pub(super) fn entries(&self) -> u64 {
        self.items.iter().map(|one| one.stats.entries).sum()
    }
}

/// Shows the caches.
pub(crate) async fn list(visit: Visit) -> Result<Response, Failure> {
    let caches: Caches = visit.api.get("/cache", &Params::default()).await?;
    let content = html! {
        (notice(&visit.query))
        (table(&caches))
        @if INVALIDATE.is_for(&visit) {
            h2 { "Invalidate" }
            p { "Do it where a result is wrong and no change of a row ends it. Results end by themselves after their time." }
            (form(
                "of an observer",
                [("observer", "Observer", true), ("name", "Lookup or action; all where left out", false)],
            ))
            (form(
                "that depend on an entity",
                [("entity", "Entity", true), ("key", "Key; all where left out", false)],
            ))
            div.acts { (INVALIDATE.button(&visit, &Params::default().and("all", "true"), "Invalidate all results")) }
        }
    };
    Ok(visit.page(Section::Caches, "Caches", &content))
}

fn table(caches: &Caches) -> Markup {
    html! {
        @if caches.items.is_empty() {
            p.notice { "No process has told of a cache yet. They do with their heartbeats, every few seconds." }
        } @else {
            div.wide tabindex="0" role="region" aria-label="Caches of the processes" { table {
                thead { tr {
                    th scope="col" { "Process" } th.number scope="col" { "Results" } th.number scope="col" { "Bytes" }
                    th scope="col" { "Served since it started" }
                } }
                tbody { @for one in &caches.items { tr {
                    td { (cell(&one.process)) }
                    td.number { (number(one.stats.entries)) }
                    td.number { (number(one.stats.bytes)) }
                    td {
                        @if one.stats.served.is_empty() { span.none { "nothing" } }
                        @for (at, (how, count)) in one.stats.served.iter().enumerate() {
                            @if at > 0 { " · " } (cell(how)) " " (number(*count))
                        }
                    }
                } } }
            } }
            p.hint { "joined: an equal one was in flight · miss: looked up · refreshed: looked up before its time was over · \
                      stale: the lookup failed · bypassed: it was not known whether a result holds" }
        }
    }
}

fn form(title: &str, fields: [(&str, &str, bool); 2]) -> Markup {
    html! {
        h3 { "Results " (title) }
        form.filters method="get" action=(INVALIDATE.page()) {
            @for (name, label, required) in fields {
                @let id = format!("invalidate-{name}");
                div { label for=(id) { (label) } input id=(id) type="text" name=(name) required[required] autocomplete="off"; }
            }
            button type="submit" { "Invalidate results " (title) }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]

    use serde_json::json;

    use super::*;

    #[test]
    fn caches_are_shown_with_what_they_served() {
        let stats =
            json!({"entries": 1234, "bytes": 5_678_901, "served": {"memory": 7, "<b>": 12345}});
        let caches = json!({"items": [{"process": "pod\u{202e}<i>", "stats": stats}]});
        let caches: Caches = serde_json::from_value(caches).unwrap();
        let shown = table(&caches).into_string();
        for part in [
            "pod\\u{202e}&lt;i&gt;",
            "1,234",
            "5,678,901",
            "memory</bdi> 7",
            "&lt;b&gt;</bdi> 12,345",
        ] {
            assert!(shown.contains(part), "{part}: {shown}");
        }
        assert_eq!(caches.entries(), 1234);
        let none: Caches = serde_json::from_value(json!({"items": []})).unwrap();
        assert!(table(&none).into_string().contains("No process has told"));
    }
}
