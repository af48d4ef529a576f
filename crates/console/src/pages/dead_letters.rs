//! Dead letters: deliveries that were given up.

use axum::response::Response;
use chrono::{DateTime, Utc};
use maud::{Markup, html};
use serde::Deserialize;
use serde_json::Value;

use super::delivery::{Attempt, attempts, http, whole};
use super::filters::{self, Filter, Values};
use super::row::images;
use crate::acts::{DROP, REDRIVE, notice};
use crate::api::segment;
use crate::failure::Failure;
use crate::layout::Section;
use crate::params::Params;
use crate::routes::path;
use crate::value::{cell, number, optional, optional_time, text, time};
use crate::visit::Visit;

/// Dead letters of a page.
const LIMIT: &str = "50";

const TIME: Values = Values::Text("2026-01-31T12:00:00Z");

const FILTERS: [Filter; 8] = [
    Filter {
        name: "observer",
        values: Values::Text("namespace/name"),
    },
    Filter {
        name: "action",
        values: Values::Text(""),
    },
    Filter {
        name: "kind",
        values: Values::Text("status"),
    },
    Filter {
        name: "entity",
        values: Values::Text("public.orders"),
    },
    Filter {
        name: "key",
        values: Values::Text(""),
    },
    Filter {
        name: "tenant",
        values: Values::Text(""),
    },
    Filter {
        name: "since",
        values: TIME,
    },
    Filter {
        name: "until",
        values: TIME,
    },
];

/// A page, as `GET /dead-letters` has it.
#[derive(Debug, Deserialize)]
struct Page {
    items: Vec<Letter>,
    next: Option<i64>,
    count: Option<u64>,
}

/// A dead letter; in lists without its row and its history.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Letter {
    id: i64,
    event_id: String,
    pub(super) observer: String,
    pub(super) action: String,
    pub(super) entity: String,
    operation: String,
    pub(super) key: Option<String>,
    tenant: Option<String>,
    occurred_at: DateTime<Utc>,
    attempts: u64,
    error_kind: String,
    error: String,
    status: Option<u16>,
    created_at: DateTime<Utc>,
    redrive_requested_at: Option<DateTime<Utc>>,
    old: Option<Value>,
    new: Option<Value>,
    #[serde(default)]
    history: Vec<Attempt>,
}

/// Lists dead letters.
pub(crate) async fn list(visit: Visit) -> Result<Response, Failure> {
    let asked = filters::asked(&visit);
    let known = filters::known(&asked, &FILTERS);
    let is_first = asked.get("before").is_none();
    let query = asked
        .with("limit", Some(LIMIT))
        .with("count", is_first.then_some("true"));
    let found = visit.api.get::<Page>("/dead-letters", &query).await;
    let form = html! {
        (filters::form(path::DEAD_LETTERS, &FILTERS, &known))
        p.hint { "Times are of when the delivery was given up, in UTC as 2026-01-31T12:00:00Z." }
    };
    let list = found.map(|page| {
        html! {
            @if !page.items.is_empty() {
                div.acts { (REDRIVE.all(&visit, &known)) (DROP.all(&visit, &known)) }
            }
            (table(&page, &known, is_first))
        }
    });
    let title = (Section::DeadLetters, "Dead letters");
    Ok(filters::page(&visit, title, &form, list))
}

fn table(page: &Page, known: &Params, is_first: bool) -> Markup {
    let next = page
        .next
        .map(|next| known.with("before", Some(&next.to_string())));
    html! {
        @if page.items.is_empty() {
            @if !is_first { p.quiet { "There are no older ones." } }
            @else if known.pairs().next().is_some() { p.quiet { "No dead letter matches these filters." } }
            @else { p.done { "There are none: no delivery was given up, or all were redriven or dropped." } }
        } @else {
            div.wide tabindex="0" role="region" aria-label="Dead letters" { table {
                caption {
                    @if let Some(count) = page.count { (number(count)) " in all, the newest first" }
                    @else { "The newest first" }
                }
                thead { tr {
                    th scope="col" { "Given up (UTC)" } th scope="col" { "Observer / action" } th scope="col" { "Entity" }
                    th scope="col" { "Key" } th scope="col" { "Kind" } th.number scope="col" { "HTTP" }
                    th scope="col" { "Error" } th.number scope="col" { "Attempts" } th scope="col" { "Redrive" }
                } }
                tbody { @for letter in &page.items { (row(letter)) } }
            } }
        }
        @if let Some(next) = next { p { a href=(next.link(path::DEAD_LETTERS)) rel="next" { "Next page" } } }
    }
}

fn row(letter: &Letter) -> Markup {
    let link = format!("{}{}", path::DEAD_LETTER, letter.id);
    html! { tr {
        td { a href=(link) { (time(letter.created_at)) } }
        td { (cell(&letter.observer)) " / " (cell(&letter.action)) }
        td { (cell(&letter.entity)) }
        td { (optional(letter.key.as_deref())) }
        td { (cell(&letter.error_kind)) }
        td.number { (http(letter.status)) }
        td { (cell(&letter.error)) }
        td.number { (number(letter.attempts)) }
        td { @if letter.redrive_requested_at.is_some() { span.tag.warn { "requested" } } @else { span.none { "–" } } }
    } }
}

/// Shows one dead letter.
pub(crate) async fn show(visit: Visit) -> Result<Response, Failure> {
    let api = format!("/dead-letters/{}", segment(&visit.id));
    let letter: Letter = visit.api.get(&api, &Params::default()).await?;
    let id = letter.id.to_string();
    let content = html! {
        (notice(&visit.query))
        (summary(&letter))
        div.acts {
            (REDRIVE.one(&visit, &id)) (DROP.one(&visit, &id))
            a.button href={ (path::EVENT) (segment(&letter.event_id)) } { "Its event" }
        }
        (attempts(&letter.history))
        (images(letter.old.as_ref(), letter.new.as_ref()))
    };
    let title = format!("Dead letter {id}");
    Ok(visit.page(Section::DeadLetters, &title, &content))
}

fn summary(letter: &Letter) -> Markup {
    let event = format!("{}{}", path::EVENT, segment(&letter.event_id));
    html! {
        p.problem { (text(&letter.error)) }
        @if letter.redrive_requested_at.is_some() {
            p.notice { "A redrive was requested at " (optional_time(letter.redrive_requested_at)) " and is not done yet. "
                "If it succeeds, this dead letter is gone." }
        }
        dl {
            dt { "Given up" } dd { (time(letter.created_at)) }
            dt { "Observer" } dd { (text(&letter.observer)) }
            dt { "Action" } dd { (text(&letter.action)) }
            dt { "Kind of failure" } dd { (text(&letter.error_kind)) }
            dt { "HTTP status" } dd { (http(letter.status)) }
            dt { "Attempts" } dd { (number(letter.attempts)) }
            dt { "Event" } dd { a href=(event) { (text(&letter.event_id)) } }
            dt { "Entity" } dd { (text(&letter.entity)) ": " (text(&letter.operation)) }
            dt { "Key" } dd { (whole(letter.key.as_deref())) }
            @if letter.tenant.is_some() { dt { "Tenant" } dd { (whole(letter.tenant.as_deref())) } }
            dt { "Occurred" } dd { (time(letter.occurred_at)) }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]

    use serde_json::json;

    use super::*;

    fn letter() -> Value {
        json!({
            "id": 17, "listener": "shop/shop", "eventId": "a-1-2", "observer": "shop/orders", "action": "post",
            "entity": "public.<i>", "operation": "Update", "key": "<script>alert(1)</script>", "tenant": "\u{202e}emca",
            "occurredAt": "2026-11-30T00:00:00Z", "attempts": 1234, "errorKind": "status", "error": "HTTP 500\u{1b}[31m",
            "status": 500, "createdAt": "2026-11-30T01:02:03.456789Z", "redriveRequestedAt": "2026-11-30T02:00:00Z",
        })
    }

    #[test]
    fn list_leads_to_each_and_to_the_next_page() {
        let page = json!({"items": [letter()], "next": 17, "count": 12345});
        let page: Page = serde_json::from_value(page).unwrap();
        let known = Params::parse(b"observer=a%26b");
        let shown = table(&page, &known, true).into_string();
        for part in [
            "href=\"/console/dead-letters/17\"",
            "href=\"/console/dead-letters?observer=a%26b&amp;before=17\"",
            "12,345 in all",
            "1,234",
            "500",
            "requested",
            "&lt;script&gt;alert(1)&lt;/script&gt;",
            "HTTP 500\\u{1b}[31m",
            "datetime=\"2026-11-30T01:02:03.456789Z\"",
        ] {
            assert!(shown.contains(part), "{part}: {shown}");
        }
        assert!(
            !shown.contains("<script>") && !shown.contains("<i>"),
            "{shown}"
        );
        let none: Page =
            serde_json::from_value(json!({"items": [], "next": null, "count": 0})).unwrap();
        let empty = |known: &Params, is_first| table(&none, known, is_first).into_string();
        assert!(empty(&known, true).contains("matches these filters"));
        assert!(empty(&known, false).contains("no older ones"));
        assert!(empty(&Params::default(), true).contains("no delivery was given up"));
    }

    #[test]
    fn one_is_shown_whole() {
        let mut whole = letter();
        whole["old"] = json!({"total": 1});
        whole["new"] = json!({"total": 2});
        whole["history"] =
            json!([{"at": "2026-11-30T00:00:00Z", "kind": "status", "error": "x", "status": 500}]);
        let letter: Letter = serde_json::from_value(whole).unwrap();
        let shown = summary(&letter).into_string();
        for part in [
            "\\u{202e}emca",
            "/console/events/a",
            "A redrive was requested",
            "public.&lt;i&gt;",
        ] {
            assert!(shown.contains(part), "{part}: {shown}");
        }
        assert_eq!((letter.history.len(), letter.old.is_some()), (1, true));
    }
}
