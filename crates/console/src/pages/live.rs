//! Events as they are committed.
//!
//! The row at the top of the table carries the cursor. Where there is JavaScript it asks each second for itself with
//! the cursor after that, and for the rows of the events between, which so come below it.

use axum::http::StatusCode;
use axum::response::{Html, IntoResponse as _, Response};
use chrono::{DateTime, Utc};
use maud::{Markup, html};
use serde::Deserialize;

use super::events;
use super::fields::input;
use crate::api::ApiError;
use crate::failure::Failure;
use crate::layout::Section;
use crate::params::Params;
use crate::routes::path;
use crate::value::{cell, number, optional, text, time};
use crate::visit::{Visit, see_other};

/// Most events of an answer, and most rows that a page keeps.
const MOST: usize = 200;

/// Number of columns.
const COLUMNS: u32 = 6;

/// Events after a cursor, as `GET /tail` has them: the oldest first.
#[derive(Debug, Deserialize)]
struct Tail {
    items: Vec<Event>,
    next: String,
    missed: bool,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Event {
    id: String,
    entity: String,
    operation: String,
    key: Option<String>,
    tenant: Option<String>,
    occurred_at: DateTime<Utc>,
    #[serde(default)]
    changed: Vec<String>,
}

/// What the page shows.
#[derive(Debug)]
struct View<'a> {
    /// The cursor where the page begins.
    since: &'a str,
    /// The only entity that is shown.
    entity: Option<&'a str>,
    is_paused: bool,
    tail: Tail,
    now: DateTime<Utc>,
}

/// Shows the events after a cursor, or those from now on.
pub(crate) async fn show(visit: Visit) -> Result<Response, Failure> {
    let query = &visit.query;
    let after = query.get("after");
    let asked = Params::default().with("after", after);
    let asked = asked.and("limit", &MOST.to_string()).and("wait", "0");
    let is_part = query.get("part").is_some();
    let tail: Tail = match visit.api.get("/tail", &asked).await {
        Ok(tail) => tail,
        Err(error) if is_part => return Err(error.into()),
        Err(error) => return Ok(unavailable(&visit, &error)),
    };
    let Some(after) = after else {
        // So that a reload shows what came since.
        let begun = query.only(&["entity", "pause"]).and("after", &tail.next);
        return Ok(see_other(&begun.link(path::LIVE)));
    };
    let view = View {
        since: query.get("since").unwrap_or(after),
        entity: query.get("entity"),
        is_paused: query.get("pause").is_some(),
        tail,
        now: visit.now,
    };
    if is_part {
        return Ok(Html(view.part().into_string()).into_response());
    }
    Ok(visit.page(Section::Live, "Live", &view.page()))
}

fn unavailable(visit: &Visit, error: &ApiError) -> Response {
    let content = html! {
        @if error.status == StatusCode::NOT_FOUND {
            p.notice { "Live view is not available: this listener's API does not tell of events as they are committed." }
        } @else {
            p.problem role="alert" { (text(&error.detail)) }
            p { a href=(path::LIVE) { "Start from now" } }
        }
    };
    let page = visit.page(Section::Live, "Live", &content);
    (error.status, page).into_response()
}

impl View<'_> {
    /// Returns the parameters of this page at a cursor.
    fn at(&self, cursor: &str, is_paused: bool) -> Params {
        Params::default()
            .with("after", Some(cursor))
            .with("entity", self.entity)
            .with("pause", is_paused.then_some("1"))
    }

    /// Returns the parameters of a part that renews the top of this page.
    fn part_of(&self, is_paused: bool) -> Params {
        Params::default()
            .with("part", Some("1"))
            .with("since", Some(self.since))
            .with("entity", self.entity)
            .with("pause", is_paused.then_some("1"))
    }

    fn page(&self) -> Markup {
        let newer = self.at(&self.tail.next, self.is_paused).link(path::LIVE);
        let is_full = self.tail.items.len() >= MOST;
        html! {
            p.hint { "Events come here as they are committed, the newest at the top, and " (MOST) " are kept. As long as no observed table changes, there is nothing to see." }
            noscript { p.notice { "Without JavaScript, reload this page for newer events. " a href=(newer) { "Leave these out" } } }
            (self.filter())
            p.acts {
                (self.hold(false))
                a.button href=(self.at("", false).with("after", None).link(path::LIVE)) { "Start from now" }
            }
            @if is_full && self.is_paused {
                p.notice { "These are the oldest " (MOST) " since. " a href=(newer) { "Next page" } }
            } @else if is_full {
                p.notice { "More than " (MOST) " events were committed since this page was opened: the rest follow. Start from now to leave them out." }
            }
            h2 #live { "Events" }
            div.wide tabindex="0" role="region" aria-labelledby="live" { table {
                thead { tr { th { "Time (UTC)" } th { "Entity" } th { "Operation" } th { "Key" } th { "Tenant" } th { "Changed" } } }
                tbody #rows data-most=(MOST) { (self.top()) (self.rows()) }
            } }
        }
    }

    fn filter(&self) -> Markup {
        let entity = Params::default().with("entity", self.entity);
        html! {
            form.filters method="get" action=(path::LIVE) {
                input type="hidden" name="after" value=(self.since);
                @if self.is_paused { input type="hidden" name="pause" value="1"; }
                (input("entity", "Only the entity (schema.table)", &entity))
                button type="submit" { "Filter" }
            }
        }
    }

    /// Returns what replaces the top of the page, where that is renewed.
    fn part(&self) -> Markup {
        html! {
            (self.top()) (self.rows())
            // Elements that are no rows are kept apart from rows by a template alone.
            template { (self.hold(true)) }
        }
    }

    /// Returns the link that pauses or resumes. It takes the cursor from the top row.
    fn hold(&self, is_apart: bool) -> Markup {
        let to = !self.is_paused;
        let page = self.at(self.since, to).link(path::LIVE);
        html! {
            a #hold .button href=(page) hx-get=(self.part_of(to).link(path::LIVE)) hx-include="#cursor" hx-target="#top"
                hx-swap="outerHTML" hx-sync="#top:replace" hx-replace-url=(page) hx-swap-oob=[is_apart.then_some("true")] {
                @if to { "Pause" } @else { "Resume" }
            }
        }
    }

    /// Returns the row at the top, which carries the cursor.
    fn top(&self) -> Markup {
        let next = self
            .part_of(false)
            .and("after", &self.tail.next)
            .link(path::LIVE);
        let next = (!self.is_paused).then_some(next);
        html! {
            tr #top hx-get=[next.as_ref()] hx-trigger=[next.as_ref().map(|_| "every 1s")] hx-swap="outerHTML" hx-sync="this:drop" {
                td.quiet colspan=(COLUMNS) {
                    @if self.is_paused { "Paused at " } @else { "Up to " } (time(self.now))
                    input #cursor type="hidden" name="after" value=(self.tail.next);
                }
            }
        }
    }

    fn rows(&self) -> Markup {
        let items = self.tail.items.iter().rev();
        let shown = items.filter(|one| self.entity.is_none_or(|entity| entity == one.entity));
        html! {
            @for event in shown.take(MOST) { tr data-event=(event.id) {
                td { a href=(events::link(&event.id)) { (time(event.occurred_at)) } }
                td { (cell(&event.entity)) }
                td { (cell(&event.operation)) }
                td { (optional(event.key.as_deref())) }
                td { (optional(event.tenant.as_deref())) }
                td { (columns(&event.changed)) }
            } }
            @if self.tail.missed {
                tr { td colspan=(COLUMNS) {
                    span.tag.warn { "gap" }
                    " Events may be missing here: nobody watched for half a minute, another process answered, or too many came at once. "
                    a href=(path::EVENTS) { "Search the history" } " for them."
                } }
            }
        }
    }
}

/// Returns the names of some columns.
fn columns(names: &[String]) -> Markup {
    const SHOWN: usize = 8;
    html! {
        @for (at, name) in names.iter().take(SHOWN).enumerate() { @if at > 0 { ", " } (cell(name)) }
        @if names.len() > SHOWN { " and " (number((names.len() - SHOWN) as u64)) " more" }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]

    use axum::http::header::LOCATION;
    use serde_json::{Value, json};

    use super::super::testing::{in_order, shown, visit};
    use super::*;

    fn tail() -> Value {
        let event = |id: &str, entity: &str| {
            json!({
                "id": id, "logId": 1, "entity": entity, "operation": "Insert", "key": "\u{202e}7", "tenant": null,
                "occurredAt": "2026-11-29T01:20:11Z", "changed": (0..10).map(|n| format!("c{n}<")).collect::<Vec<_>>(),
            })
        };
        let items = [
            event("old", "a.b"),
            event("other", "<script>"),
            event("new", "a.b"),
        ];
        json!({"items": items, "next": "c+2\"", "missed": true})
    }

    async fn page(page: &'static str) -> String {
        let response = show(visit(page, "", StatusCode::OK, tail())).await.unwrap();
        shown(response).await.1
    }

    #[tokio::test]
    async fn page_begins_now_and_its_link_says_when_that_was() {
        let visit = visit("/console/live?entity=a.b&part=", "", StatusCode::OK, tail());
        let response = show(visit).await.unwrap();
        assert_eq!(response.status(), StatusCode::SEE_OTHER);
        let location = &response.headers()[LOCATION];
        assert_eq!(location, "/console/live?entity=a.b&after=c%2B2%22");
    }

    #[tokio::test]
    async fn newest_event_is_at_the_top_and_the_top_row_carries_the_cursor() {
        let shown = page("/console/live?after=c1").await;
        in_order(
            &shown,
            &[
                "name=\"after\" value=\"c1\"",
                "href=\"/console/live?after=c1&amp;pause=1\" hx-get=\"/console/live?part=1&amp;since=c1&amp;pause=1\"",
                "<tbody id=\"rows\" data-most=\"200\"><tr id=\"top\" hx-get=\"/console/live?part=1&amp;since=c1&amp;after=c%2B2%22\" hx-trigger=\"every 1s\"",
                "id=\"cursor\" type=\"hidden\" name=\"after\" value=\"c+2&quot;\"",
                "<tr data-event=\"new\"><td><a href=\"/console/events/new\"",
                "\\u{202e}7",
                "<bdi>c7&lt;</bdi> and 2 more",
                "&lt;script&gt;",
                "href=\"/console/events/old\"",
                "Events may be missing here",
            ],
        );
        assert!(
            !shown.contains("<script>") && !shown.contains("hx-swap-oob"),
            "{shown}"
        );
    }

    #[tokio::test]
    async fn part_has_rows_alone_and_what_follows_the_pause() {
        let shown = page("/console/live?part=1&since=c0&after=c1&entity=a.b").await;
        assert!(shown.starts_with("<tr id=\"top\" hx-get="), "{shown}");
        assert!(
            shown.contains("since=c0&amp;entity=a.b&amp;after=c%2B2%22\""),
            "{shown}"
        );
        assert_eq!(shown.matches("/console/events/").count(), 2, "{shown}");
        let paused = page("/console/live?part=1&since=c0&after=c1&pause=1").await;
        assert!(paused.starts_with("<tr id=\"top\" hx-swap"), "{paused}");
        assert!(
            !paused.contains("hx-trigger") && paused.contains("Paused at"),
            "{paused}"
        );
        let resume = "<template><a class=\"button\" id=\"hold\" href=\"/console/live?after=c0\"";
        assert!(paused.contains(resume), "{paused}");
    }

    #[tokio::test]
    async fn without_the_tail_it_says_so() {
        let problem = json!({"status": 404, "title": "Not Found", "detail": "no such path"});
        let visit = visit("/console/live", "", StatusCode::NOT_FOUND, problem);
        let (status, shown) = shown(show(visit).await.unwrap()).await;
        assert_eq!(status, StatusCode::NOT_FOUND);
        assert!(shown.contains("Live view is not available"), "{shown}");
    }
}
