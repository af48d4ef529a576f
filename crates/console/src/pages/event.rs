//! One event's whole way: committed, matched, attempted, and how each delivery ended.

use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use chrono::{DateTime, Utc};
use maud::{Markup, html};
use serde::Deserialize;
use serde_json::Value;

use super::events::{by_id, link};
use super::row;
use super::way::{Delivery, ObserverEntry, step};
use crate::api::segment;
use crate::failure::Failure;
use crate::layout::{Section, renewed};
use crate::params::Params;
use crate::routes::path;
use crate::value::{cell, number, optional, text, time};
use crate::visit::Visit;

/// Between two looks at an event with deliveries that are not over, in seconds.
const PERIOD: u32 = 5;

/// An event, as `GET /events/{id}` has it.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Event {
    id: String,
    log_id: u64,
    entity: String,
    operation: String,
    key: Option<String>,
    tenant: Option<String>,
    occurred_at: DateTime<Utc>,
    trace_id: Option<String>,
    old: Option<Value>,
    new: Option<Value>,
    #[serde(default)]
    changed: Vec<String>,
    #[serde(default)]
    observers: Vec<ObserverEntry>,
}

impl Event {
    fn deliveries(&self) -> impl Iterator<Item = (&str, &Delivery)> {
        let all = self.observers.iter();
        all.flat_map(|one| {
            one.deliveries
                .iter()
                .map(|delivery| (&*one.observer, delivery))
        })
    }
}

/// Shows an event.
pub(crate) async fn show(visit: Visit) -> Result<Response, Failure> {
    let path = format!("/events/{}", segment(&visit.id));
    let event: Event = match visit.api.get(&path, &Params::default()).await {
        Ok(event) => event,
        Err(error) if error.status == StatusCode::NOT_FOUND => {
            let content = html! {
                p.problem role="alert" { (text(&error.detail)) }
                (by_id())
                p { a href=(path::EVENTS) { "Search for events" } }
            };
            let page = visit.page(Section::Events, "No such event", &content);
            return Ok((error.status, page).into_response());
        }
        Err(error) => return Err(error.into()),
    };
    let way = html! {
        h2 { "Its way" }
        ol.way {
            (committed(&event))
            (matched(&event))
            @for (observer, delivery) in event.deliveries() { (step(observer, delivery, visit.now)) }
        }
    };
    let is_waiting = event
        .deliveries()
        .any(|(_, delivery)| delivery.is_waiting());
    let content = html! {
        @if is_waiting { (renewed("way", &link(&event.id), PERIOD, &way)) } @else { (way) }
        (row::compared(event.old.as_ref(), event.new.as_ref(), &event.changed))
        (elsewhere(&event))
    };
    let title = format!("Event {}", event.id);
    Ok(visit.page(Section::Events, &title, &content))
}

fn committed(event: &Event) -> Markup {
    html! {
        li.good {
            h3 { "Committed: " (cell(&event.operation)) " of " (text(&event.entity)) }
            dl {
                dt { "Time (UTC)" } dd { (time(event.occurred_at)) ", when its transaction began" }
                dt { "Key" } dd { (optional(event.key.as_deref())) }
                dt { "Tenant" } dd { (optional(event.tenant.as_deref())) }
                dt { "Trace id" } dd { code { (optional(event.trace_id.as_deref())) } }
                dt { "Number in the log" } dd { (number(event.log_id)) }
            }
        }
    }
}

/// Says which observers matched, and why others did not.
fn matched(event: &Event) -> Markup {
    let (matched, others): (Vec<_>, Vec<_>) = event
        .observers
        .iter()
        .partition(|one| one.not_matched.is_none());
    html! {
        li {
            @if event.observers.is_empty() {
                h3 { "No observer is known to have looked at it" }
                p { "None of those that run is for this entity, or you may not see which did not match it, or the history keeps events alone ("
                    code { "documents: Events" } ")." }
            } @else {
                h3 {
                    (number(matched.len() as u64)) " of " (number(event.observers.len() as u64))
                    @if event.observers.len() == 1 { " observer matched" } @else { " observers matched" }
                }
            }
            ul {
                @for one in matched { li { (text(&one.observer)) " matched" } }
                @for one in others { li {
                    (text(&one.observer)) " did not match: " (text(one.not_matched.as_deref().unwrap_or_default()))
                } }
            }
        }
    }
}

fn elsewhere(event: &Event) -> Markup {
    let own = Params::default().and("entity", &event.entity);
    html! {
        ul {
            @if let Some(key) = &event.key {
                li { a href=(own.clone().and("key", key).link(path::EVENTS)) { "Events of the same key" } }
            }
            li { a href=(own.link(path::EVENTS)) { "Events of " (cell(&event.entity)) } }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]

    use serde_json::json;

    use super::super::testing::{in_order, shown, visit};
    use super::*;

    async fn page(status: StatusCode, body: Value) -> (StatusCode, String) {
        let visit = visit("/console/events/a", "a-1-b", status, body);
        shown(show(visit).await.unwrap()).await
    }

    fn event(state: &str) -> Value {
        json!({
            "id": "3c5bf38d-140-6615e1afaa36c", "listener": "shop/shop", "logId": 1400, "entity": "public.<i>",
            "operation": "Update", "key": "4 2", "tenant": "ac\u{200f}me", "occurredAt": "2026-11-29T01:20:11.204518Z",
            "traceId": "0af7651916cd43dd8448eb211c80319c", "old": {"total": 900}, "new": {"total": 1200},
            "changed": ["total"], "observers": [
                {"observer": "shop/big", "deliveries": [{"action": "notify", "delivery": "d", "state": state}]},
                {"observer": "shop/other", "notMatched": "the condition `new.total > 2000` is false <script>"},
            ],
        })
    }

    #[tokio::test]
    async fn way_is_told_from_the_commit_to_the_end() {
        let (status, shown) = page(StatusCode::OK, event("delivered")).await;
        assert_eq!(status, StatusCode::OK);
        in_order(
            &shown,
            &[
                "<h1>Event 3c5bf38d-140-6615e1afaa36c</h1>",
                "<ol class=\"way\">",
                "Committed: <bdi>Update</bdi> of <bdi>public.&lt;i&gt;</bdi>",
                "ac\\u{200f}me",
                "0af7651916cd43dd8448eb211c80319c",
                "1,400",
                "1 of 2 observers matched",
                "<bdi>shop/big</bdi> matched",
                "did not match: <bdi>the condition `new.total &gt; 2000` is false &lt;script&gt;",
                "<bdi>shop/big</bdi> / <bdi>notify</bdi>: <span class=\"tag good\">delivered",
                "</ol>",
                "<code><bdi>900</bdi></code>",
                "?entity=public.%3Ci%3E&amp;key=4+2\"",
            ],
        );
        assert!(!shown.contains("hx-get"), "{shown}");
        let (_, waiting) = page(StatusCode::OK, event("queued")).await;
        let renewed = "hx-get=\"/console/events/3c5bf38d-140-6615e1afaa36c\"";
        assert!(waiting.contains(renewed), "{waiting}");
    }

    #[tokio::test]
    async fn event_that_is_gone_says_how_long_events_are_kept() {
        let detail =
            "there is no event <b>; the change log holds events for spec.database.retention";
        let problem = json!({"status": 404, "title": "Not Found", "detail": detail});
        let (status, shown) = page(StatusCode::NOT_FOUND, problem).await;
        assert_eq!(status, StatusCode::NOT_FOUND);
        assert!(
            shown.contains("no event &lt;b&gt;; the change log holds"),
            "{shown}"
        );
        assert!(shown.contains("name=\"id\""), "{shown}");
    }

    #[tokio::test]
    async fn event_without_observers_says_why_that_may_be() {
        let mut alone = event("delivered");
        alone.as_object_mut().unwrap().remove("observers");
        let (_, shown) = page(StatusCode::OK, alone).await;
        assert!(
            shown.contains("No observer is known to have looked at it"),
            "{shown}"
        );
    }
}
