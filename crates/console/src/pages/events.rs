//! Search in the history.

use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use chrono::{DateTime, Utc};
use maud::{Markup, html};
use serde::Deserialize;

use super::facets::{Facets, narrow, plot};
use super::fields::{TIME_HINT, input, select, with_times};
use super::way::{OUTCOMES, ObserverEntry, summary};
use crate::api::segment;
use crate::failure::Failure;
use crate::layout::Section;
use crate::params::Params;
use crate::routes::path;
use crate::value::{cell, number, optional, text, time};
use crate::visit::{Visit, see_other};

/// Size of a page.
const LIMIT: &str = "50";

const OPERATIONS: [&str; 6] = ["Insert", "Update", "Delete", "Truncate", "Custom", "Read"];

/// What `GET /search` finds.
#[derive(Debug, Deserialize)]
struct Found {
    items: Vec<Event>,
    total: u64,
    next: Option<String>,
    facets: Option<Facets>,
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
    observers: Vec<ObserverEntry>,
    highlights: Vec<Highlight>,
}

#[derive(Debug, Deserialize)]
struct Highlight {
    field: String,
    text: String,
}

/// Returns where an event is shown.
pub(super) fn link(id: &str) -> String {
    format!("{}{}", path::EVENT, segment(id))
}

/// Searches for events.
pub(crate) async fn search(visit: Visit) -> Result<Response, Failure> {
    if let Some(id) = visit.query.get("id") {
        return Ok(see_other(&link(id.trim())));
    }
    let query = with_times(&visit.query, &["from", "to"]);
    let asked = query
        .with("limit", Some(LIMIT))
        .with("facets", Some("true"));
    let asked = asked.with("highlight", Some("true"));
    let found = visit.api.get::<Found>("/search", &asked).await;
    let (status, content) = match found {
        Ok(found) => (
            StatusCode::OK,
            html! { (form(&visit)) (results(&found, &query)) (by_id()) },
        ),
        Err(error) if error.status == StatusCode::NOT_FOUND => {
            (StatusCode::OK, html! { (without_history()) (by_id()) })
        }
        Err(error) => {
            let problem = html! { p.problem role="alert" { (text(&error.detail)) } };
            (error.status, html! { (form(&visit)) (problem) (by_id()) })
        }
    };
    let page = visit.page(Section::Events, "Events", &content);
    Ok((status, page).into_response())
}

fn form(visit: &Visit) -> Markup {
    let query = &visit.query;
    let operations = OPERATIONS.map(|one| (one, one));
    let orders = [("oldest", "oldest first")];
    let more = ["operation", "action", "tenant"];
    html! {
        form.filters method="get" action=(path::EVENTS) role="search" {
            div.grow {
                label for="q" { "Words and fields" }
                input #q name="q" type="search" value=(query.get("q").unwrap_or_default()) aria-describedby="q-hint" autocomplete="off" spellcheck="false";
            }
            (input("entity", "Entity (schema.table)", query))
            (input("key", "Key", query))
            (input("observer", "Observer (namespace/name)", query))
            (select("outcome", "Outcome", "any", &OUTCOMES, query))
            (input("from", "From", query))
            (input("to", "To", query))
            (select("sort", "Order", "newest first", &orders, query))
            details open[more.iter().any(|name| query.get(name).is_some())] {
                summary { "More filters" }
                div {
                    (select("operation", "Operation", "any", &operations, query))
                    (input("action", "Action", query))
                    @if visit.caller.tenant.is_none() { (input("tenant", "Tenant", query)) }
                }
            }
            button.primary type="submit" { "Search" }
            a.button href=(path::EVENTS) { "Clear" }
        }
        p #q-hint .hint {
            "Examples: " code { "paid new.total:>100" } ", " code { "\"quick fox\"" } ", " code { "old.status:open -cancelled" } ", "
            code { "status:503" } ", " code { "changed:total" } ". " (TIME_HINT)
        }
    }
}

fn without_history() -> Markup {
    html! {
        div.notice { "This listener keeps no history, so there is nothing to search. To turn it on, set "
            code { "spec.search" } " of the ObserverListener, for example " code { "search: {postgres: {}}" }
            ": it holds the events from then on. Until then, an event is found by its id as long as the change log keeps it." }
    }
}

/// Returns a form that leads to one event.
pub(super) fn by_id() -> Markup {
    html! {
        h2 { "One event" }
        form.filters method="get" action=(path::EVENTS) {
            div.grow {
                label for="id" { "Id of an event, or the webhook-id that a receiver got" }
                input #id name="id" type="text" required autocomplete="off" spellcheck="false";
            }
            button type="submit" { "Show" }
        }
    }
}

fn results(found: &Found, query: &Params) -> Markup {
    let is_later = query.get("cursor").is_some();
    let filters = query.with("cursor", None).with("sort", None);
    html! {
        p role="status" {
            strong { (number(found.total)) } @if found.total == 1 { " event matches." } @else { " events match." }
        }
        @if found.items.is_empty() {
            p.notice {
                @if is_later { "There are no more events." }
                @else if filters == Params::default() { "The history has no event yet: it holds those that were committed since it was turned on, and comes a few seconds behind." }
                @else { "No event matches all of these filters. Take one away, or look at another time; the newest events take a few seconds to get here." }
            }
        }
        @if let Some(facets) = &found.facets { (plot(facets, query)) }
        @if !found.items.is_empty() { (table(&found.items)) }
        p.acts {
            @if is_later { a.button href=(query.with("cursor", None).link(path::EVENTS)) { "First page" } }
            @if let Some(next) = &found.next {
                a.button href=(query.with("cursor", Some(next)).link(path::EVENTS)) { "Next page" }
            }
        }
        @if let Some(facets) = &found.facets { (narrow(facets, query)) }
    }
}

fn table(events: &[Event]) -> Markup {
    html! {
        h2 #found { "Events" }
        div.wide tabindex="0" role="region" aria-labelledby="found" { table {
            thead { tr { th { "Time (UTC)" } th { "Entity" } th { "Operation" } th { "Key" } th { "Tenant" } th { "Deliveries" } } }
            tbody { @for event in events { tr {
                td { a href=(link(&event.id)) { (time(event.occurred_at)) } }
                td { (cell(&event.entity)) @for one in &event.highlights {
                    div.quiet { (cell(&one.field)) ": " (cell(&one.text)) }
                } }
                td { (cell(&event.operation)) }
                td { (optional(event.key.as_deref())) }
                td { (optional(event.tenant.as_deref())) }
                td { (summary(&event.observers)) }
            } } }
        } }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]

    use axum::http::header::LOCATION;
    use serde_json::{Value, json};

    use super::super::testing::{shown, visit};
    use super::*;

    async fn page(page: &'static str, status: StatusCode, body: Value) -> (StatusCode, String) {
        shown(search(visit(page, "", status, body)).await.unwrap()).await
    }

    fn found(items: &Value) -> Value {
        json!({"items": items, "total": 1234, "next": "c&2", "facets": {
            "entity": [], "operation": [], "observer": [], "outcome": [], "time": [], "intervalSeconds": 1,
        }})
    }

    #[tokio::test]
    async fn events_are_listed_as_text() {
        let event = json!({
            "id": "3c5bf38d-140-6615e1afaa36c", "listener": "shop/shop", "logId": 140, "entity": "public.<b>",
            "operation": "Update", "key": "\u{202e}42", "occurredAt": "2026-11-29T01:20:11.204518Z",
            "new": {"id": 42}, "changed": ["total"], "observers": [{"observer": "shop/o", "deliveries": [
                {"action": "a", "delivery": "d", "state": "delivered", "attempts": 1},
            ]}],
            "highlights": [{"field": "new.name", "text": "«<script>»"}],
        });
        let uri = "/console/events?q=%22%3Cscript%3E&from=2026-11-29&entity=public.orders";
        let (status, shown) = page(uri, StatusCode::OK, found(&json!([event]))).await;
        assert_eq!(status, StatusCode::OK);
        for part in [
            "<strong>1,234</strong> events match.",
            "href=\"/console/events/3c5bf38d-140-6615e1afaa36c\"><time datetime=\"2026-11-29T01:20:11.204518Z\"",
            "<bdi>public.&lt;b&gt;</bdi>",
            "\\u{202e}42",
            "1 delivered",
            "«&lt;script&gt;»",
            "value=\"&quot;&lt;script&gt;\"",
            "name=\"from\" type=\"text\" value=\"2026-11-29\"",
            "entity=public.orders&amp;from=2026-11-29T00%3A00%3A00Z&amp;cursor=c%262\">Next page",
        ] {
            assert!(shown.contains(part), "{part}: {shown}");
        }
        assert!(
            !shown.contains("<script>") && !shown.contains("style="),
            "{shown}"
        );
    }

    #[tokio::test]
    async fn wrong_filter_is_named_beside_the_form() {
        let problem = json!({"status": 400, "title": "Bad Request", "detail": "q: `~` at 3 <b>", "position": 3});
        let uri = "/console/events?q=ab~&outcome=nowhere";
        let (status, shown) = page(uri, StatusCode::BAD_REQUEST, problem).await;
        assert_eq!(status, StatusCode::BAD_REQUEST);
        assert!(
            shown.contains("role=\"alert\"><bdi>q: `~` at 3 &lt;b&gt;"),
            "{shown}"
        );
        assert!(shown.contains("value=\"ab~\""), "{shown}");
        assert!(
            shown.contains("<option value=\"nowhere\" selected>"),
            "{shown}"
        );
    }

    #[tokio::test]
    async fn without_a_history_it_says_how_to_get_one() {
        let problem = json!({"status": 404, "title": "Not Found", "detail": "set spec.search"});
        let (status, shown) = page("/console/events", StatusCode::NOT_FOUND, problem).await;
        assert_eq!(status, StatusCode::OK);
        assert!(shown.contains("<code>spec.search</code>"), "{shown}");
        assert!(
            shown.contains("name=\"id\"") && !shown.contains("name=\"q\""),
            "{shown}"
        );
    }

    #[tokio::test]
    async fn nothing_found_says_why() {
        let mut none = found(&json!([]));
        none["next"] = Value::Null;
        let (_, shown) = page("/console/events?sort=oldest", StatusCode::OK, none.clone()).await;
        assert!(shown.contains("has no event yet"), "{shown}");
        let (_, shown) = page("/console/events?key=7", StatusCode::OK, none).await;
        assert!(
            shown.contains("No event matches all of these filters"),
            "{shown}"
        );
        assert!(!shown.contains("Next page"), "{shown}");
    }

    #[tokio::test]
    async fn id_leads_to_its_event() {
        let visit = visit(
            "/console/events?id=+a-1/b.c%0A",
            "",
            StatusCode::OK,
            json!({}),
        );
        let response = search(visit).await.unwrap();
        assert_eq!(response.status(), StatusCode::SEE_OTHER);
        assert_eq!(response.headers()[LOCATION], "/console/events/a-1%2Fb.c");
    }
}
